"""The HTTP queue service: every verb of ``ports.Queue`` in front of any queue, for those who hold a token.

::

    serve     the socket, TLS, signals, uvicorn
    gate      who asks, what they may, how much and how slowly they may send
    app       the addresses and their description (OpenAPI), made from ``wire.VERBS``
    service   what each verb does with the queue
    tokens    the file of tokens, hashed
    news      one task that waits at the queue for all who wait at the server
"""
