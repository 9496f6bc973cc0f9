"""The hook for image editors: a server with a warm model, a client, and thin plug-ins for Krita and GIMP."""
