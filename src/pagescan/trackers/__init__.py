"""What changed: trackers, their cursors, and the engines behind them."""
