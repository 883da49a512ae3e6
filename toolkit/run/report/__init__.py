"""What came out of a run? A page and a card, drawn from the files of a run alone, so that they can be drawn again."""
