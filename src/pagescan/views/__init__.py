"""The live view: a pure model of what it shows, where that comes from, and a Textual app on top."""
