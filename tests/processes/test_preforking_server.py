"""A web server that loads the application once and then forks, as gunicorn does with `--preload`."""

import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from fireforget import SqliteQueue

SERVER = """
import os, signal, socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from fireforget import SqliteQueue, Task, fire_and_forget

queue = SqliteQueue(sys.argv[1])
queue.enqueue(Task("loaded"))          # the parent has used its connection, and has a thread, before it forks
fire_and_forget(queue, Task("loaded"))

def application(environ, start_response):
    info = queue.enqueue(Task("request", {"path": environ["PATH_INFO"], "pid": os.getpid()}))
    fire_and_forget(queue, Task("event", {"path": environ["PATH_INFO"]}))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [info.id.encode()]

class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass

server = WSGIServer(("127.0.0.1", 0), Quiet)
server.set_app(application)
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()
    children.append(pid)
print(server.server_port, flush=True)
sys.stdin.read()
queue.enqueue(Task("loaded"))
for pid in children:
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
"""


def test_forked_server_processes_enqueue_with_the_queue_that_was_loaded_before(tmp_path):
    """Every answered request has its job, every event arrives, and the parent's own queue goes on working."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SERVER, str(tmp_path / "jobs.db")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        with ThreadPoolExecutor(6) as clients:
            urls = [f"http://127.0.0.1:{port}/{n}" for n in range(60)]
            ids = list(clients.map(lambda url: urllib.request.urlopen(url, timeout=10).read().decode(), urls))
        server.stdin.close()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.stdout.close()
    with SqliteQueue(tmp_path / "jobs.db") as queue:
        requests = [queue.get(job_id) for job_id in ids]
        assert {info.payload["path"] for info in requests} == {f"/{n}" for n in range(60)}
        rows = queue._database.connection().execute("SELECT type, count(*) FROM fireforget_jobs GROUP BY type").fetchall()
    assert dict(rows) == {"request": 60, "event": 60, "loaded": 3}
