"""Orders of version 1 said a price in euros, and whether they were express if somebody thought of it."""

from typing import Any


def orders_1_to_2(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "order": data["order"],
        "buyer": data["buyer"],
        "cents": round(data["price"] * 100),
        "shipping": "express" if data["express"] else "standard",
    }
