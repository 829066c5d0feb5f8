"""The command line, command by command, against a small API that keeps everything in memory."""
