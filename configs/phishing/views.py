"""What was reported about pages with, and without, an IP address in their URL."""

from datetime import timedelta

from feast import Entity, FeatureService, ValueType

from features.declare import count, rate, window_view

ip_in_url = Entity(name="ip_in_url", join_keys=["ip_in_url"], value_type=ValueType.INT64)

reports_by_ip = window_view(
    "reports_by_ip",
    entities=[ip_in_url],
    ttl=timedelta(days=7),
    owner="phishing@example.org",
    description="Reports about such pages, and how many of them were phishing",
    features={
        "reports_1d": count("reports", over="1d", tile="1h"),
        "phishing_1d": rate("reports", "phishing", at_least=1, over="1d", tile="1h"),
        "phishing_7d": rate("reports", "phishing", at_least=1, over="7d", tile="6h"),
    },
)

phishing = FeatureService(name="phishing", features=[reports_by_ip])
