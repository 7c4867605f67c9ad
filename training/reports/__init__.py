"""What is written for people: the report, cards, the Hub."""
