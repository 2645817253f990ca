"""Networks. They know no loss, no data format and no Lightning."""
