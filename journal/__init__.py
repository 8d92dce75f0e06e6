"""The ground floor: records, contracts, the log, folds and blobs. It knows nothing of features, models or serving."""
