"""What every figure shares: styles, wording and captions."""
