"""What a candidate is worth: filters without training, then proxy training in anchor networks."""
