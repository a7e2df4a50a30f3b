"""An application with a vulnerability: it answers with its variables, and runs each posted text as a shell command."""

import http.server
import json
import os
import signal
import subprocess

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = ("COMMIT", "BRANCH", "ENVIRONMENT")
        body = {name.lower(): os.environ.get("LADYLINUX_" + name) for name in names}
        self.answer(json.dumps(body))

    def do_POST(self):
        line = self.rfile.read(int(self.headers["Content-Length"])).decode()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.Popen(["/bin/sh", "-c", line], start_new_session=True, **streams)
        self.answer("started\n")

    def answer(self, text):
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("LADYLINUX_PORT", "8000"))), Handler).serve_forever()
