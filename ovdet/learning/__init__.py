"""Learning a user's own classes from examples, as rows beside the text's: the detector itself stays as it is."""
