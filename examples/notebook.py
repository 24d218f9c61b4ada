"""A notebook's kernel, the smallest there is: what is posted to it is executed, and what that prints is the answer.
Variables stay, in memory alone. For the lab: it executes whatever it is told by whoever reaches it."""
import contextlib, http.server, io

names = {}


class Cell(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        printed = io.StringIO()
        status = 200
        try:
            with contextlib.redirect_stdout(printed):
                exec(text, names)
        except Exception as error:
            status = 400
            printed.write(f"{type(error).__name__}: {error}\n")
        body = printed.getvalue().encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Cell).serve_forever()
