"""What a search proposes: the space of graphs, mutation, and evolution as an ask-and-tell loop."""
