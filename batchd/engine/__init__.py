"""What happens next to a batch: one module for each thing that moves it on."""
