"""What an operator does with a storage directory beside the daemon: copy it, look it over."""
