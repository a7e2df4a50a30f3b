"""The server of source and packages for the machines of the lab, by HTTPS:

    /git/…     Git repositories by smart HTTP, for clients with the token (git http-backend)
    /simple/…  the package index, for all clients

Every request is one line of /run/source/log: method, path, status. An answer can be held in the middle: each line of
/run/source/hold is a part of a path and the number of bytes after which the answer to such a path waits, until the
line is gone; the log then has a line with HELD instead of the status.
"""

import base64
import http.server
import os
import pathlib
import socket
import socketserver
import ssl
import subprocess
import time
import urllib.parse

ROOT = pathlib.Path("/srv")
STATE = pathlib.Path("/run/source")
TOKEN = (ROOT / "token").read_text().strip()
SIMPLE = pathlib.Path("/srv/wheels/simple")


def note(*words):
    with open(STATE / "log", "a") as log:
        log.write(" ".join(str(word) for word in words) + "\n")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_GET

    def answer(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith("/git/"):
            self.git(path)
        elif path.startswith("/simple/"):
            self.index(path)
        else:
            self.plain(404)

    def git(self, path):
        given = self.headers.get("Authorization", "")
        user, _, password = base64.b64decode(given[6:] if given.startswith("Basic ") else "").decode().partition(":")
        if not user or password != TOKEN:
            self.rest_of_request()
            self.plain(401, {"WWW-Authenticate": 'Basic realm="source"'})
            return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(ROOT / "git"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": urllib.parse.urlsplit(self.path).query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": self.headers.get("Content-Length", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": user,
        }
        backend = subprocess.Popen(
            ["git", "http-backend"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            backend.stdin.write(self.rest_of_request())
            backend.stdin.close()
            status, headers = 200, []
            while (line := backend.stdout.readline().strip()) != b"":
                name, _, value = line.decode().partition(": ")
                if name == "Status":
                    status = int(value.split()[0])
                else:
                    headers.append((name, value))
            note(self.command, self.path, status)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.send(iter(lambda: backend.stdout.read1(16384), b""), self.write_chunk)
            self.write_chunk(b"")
        finally:
            backend.kill()
            backend.wait()
            backend.stdout.close()

    def index(self, path):
        file = SIMPLE / path.removeprefix("/simple/")
        if file.is_dir():
            file = file / "index.html"
        if ".." in file.parts or not file.is_file():
            self.plain(404)
            return
        size = file.stat().st_size
        note(self.command, self.path, 200)
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if file.suffix == ".html" else "application/octet-stream")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            with open(file, "rb") as opened:
                self.send(iter(lambda: opened.read(16384), b""), self.wfile.write)

    def plain(self, status, headers={}):
        note(self.command, self.path, status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def rest_of_request(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def write_chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def send(self, pieces, write):
        sent = 0
        for piece in pieces:
            limit = self.limit()
            while limit is not None and sent + len(piece) > limit:
                if sent < limit:
                    write(piece[: limit - sent])
                piece = piece[max(0, limit - sent) :]
                sent = max(sent, limit)
                note(self.command, self.path, "HELD")
                while self.limit() is not None:
                    time.sleep(0.01)
                limit = None
            if piece:
                write(piece)
            sent += len(piece)

    def limit(self):
        try:
            lines = (STATE / "hold").read_text().splitlines()
        except FileNotFoundError:
            return None
        held = [line.split() for line in lines]
        return next((int(size) for part, size in held if part in self.path), None)

    def log_message(self, *arguments):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self):
        connection, address = super().get_request()
        # The handshake is in the first read of this connection's thread, where it delays no other connection.
        wrapped = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request, address):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(ROOT / "tls.crt", ROOT / "tls.key")
STATE.mkdir(exist_ok=True)
server = Server(("0.0.0.0", 443), Handler)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
