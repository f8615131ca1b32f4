"""What is in a network, what runs when it predicts, and what a method promised."""
