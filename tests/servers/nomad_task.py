"""A task for Nomad: a web server on $NOMAD_PORT_http; /health fails while the file named by its argument is not empty."""
