"""The worker: a process that hosts engines and serves them over WebSocket, HTTP and Wyoming."""
