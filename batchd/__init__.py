"""batchd: batches of requests against model servers, on your own machine."""
