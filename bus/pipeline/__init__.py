"""The hops, one file each; read receive, plan, transform, send, settle, resume, replay to follow a message."""
