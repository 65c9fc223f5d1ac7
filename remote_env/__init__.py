"""What installs and runs on the machine: files that are sent there, importing nothing of ours."""
