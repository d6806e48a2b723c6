"""A server that dies while it has a request."""

import threading


def dying(server, proxy, number, phase, seconds=0.0):
    """A fault: at the n-th request the server is killed and started again."""
    left = [number]

    def fault(exchange, request):
        left[0] -= 1
        if left[0] != 0:
            exchange.send(exchange.forward(request))
            return None
        reply = b""
        if phase == "in the request":
            proxy.deliver_part(request, len(request) - 100)
        elif phase == "at work":
            thread = threading.Thread(target=try_forward, args=(exchange, request))
            thread.start()
            exchange.pause(seconds)
        elif phase == "in the answer":
            reply = exchange.forward(request)
        server.kill()
        server.restart()
        exchange.send(reply[: len(reply) // 2])
        return False

    return fault


def try_forward(exchange, request):
    try:
        exchange.forward(request)
    except OSError:
        pass
