"""What each choice of the study costs, each beside a named peer that does the same work in the same process."""
