"""How people ask: what categories are called and used for, words of place and size, sentences, and their grammar."""
