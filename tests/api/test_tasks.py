"""Long work over HTTP: the list of tasks and what unknown ones answer."""
import unittest

from harness import ApiTest, Server, need, tiny

need(tiny())
server = None


def setUpModule():
    global server
    server = Server(tiny())


def tearDownModule():
    server.stop()


class Tasks(ApiTest):
    def test_nothing_runs_on_a_new_server(self):
        self.assertEqual(server.get("/v1/tasks"), (200, {"tasks": []}))
        self.assertEqual(server.get("/v1/tasks?kind=sweep"), (200, {"tasks": []}))

    def test_an_unknown_task_is_not_found(self):
        for method, path in (("GET", "/v1/tasks/status/nobody"), ("GET", "/v1/tasks/nobody"), ("DELETE", "/v1/tasks/nobody")):
            self.check_error(server.call(method, path), 404, "id", "not_found", says="nobody")


if __name__ == "__main__":
    unittest.main()
