"""What travels with a version into MLflow: the loader, the readers it needs, and how they are packed."""
