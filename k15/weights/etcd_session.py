"""HTTP to a job's etcd: its token, and another member where one is lost."""

import threading
import time
from typing import Any

import requests

from k15.errors import ClusterError

FAILOVER_S = 10.0  # an election takes one to two seconds
_MEMBERS_S = 20.0  # between looks at who is a member, at most
_NO_LEADER = (requests.codes.unavailable, requests.codes.gateway_timeout)


class Session(requests.Session):
    """Adds etcd's auth token, and fetches a new one when the old has expired (5 minutes without use).

    Where the cluster has several members, a request that one of them cannot serve goes to the next, for `FAILOVER_S`.
    """

    def __init__(self, endpoint: str, password: str | None, timeout_s: float) -> None:
        super().__init__()
        self.trust_env = False  # a cluster's HTTP proxy does not lead to a job's own port
        self._first = self._endpoint = endpoint
        self._password, self._timeout_s = password, timeout_s
        self._members = [endpoint]
        self._born, self._asked = time.monotonic(), float("-inf")
        self._login_lock = threading.Lock()

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        started = time.monotonic()
        while True:
            endpoint = self._endpoint
            late = time.monotonic() - started > FAILOVER_S
            try:
                answer = self._authorised(method, url.replace(self._first, endpoint, 1), **kwargs)
                if answer.status_code not in _NO_LEADER or len(self._members) < 2 or late:
                    return answer
            except requests.RequestException:
                if len(self._members) < 2 or late:
                    raise
            following = self._members.index(endpoint) + 1 if endpoint in self._members else 0
            self._endpoint = self._members[following % len(self._members)]
            time.sleep(0.1)

    def _authorised(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        if self._password is not None:
            if "Authorization" not in self.headers:
                self._login(None)
            now = time.monotonic()  # a job's first seconds are when members join: often then, seldom later
            if now - self._asked > min(_MEMBERS_S, (now - self._born) / 2):
                self._ask_members()
        token = self.headers.get("Authorization")
        answer = super().request(method, url, **kwargs)
        if self._password is not None and answer.status_code == requests.codes.unauthorized:
            self._login(token)
            answer = super().request(method, url, **kwargs)
        return answer

    def _ask_members(self) -> None:
        """Who else could be asked. Members that have not started yet have no address."""
        answer = super().request("POST", f"{self._endpoint}/v3/cluster/member/list", json={}, timeout=self._timeout_s)
        if answer.status_code == requests.codes.ok:
            self._members = [m["clientURLs"][0] for m in answer.json()["members"] if m.get("clientURLs")]
            self._asked = time.monotonic()

    def _login(self, refused: str | bytes | None) -> None:
        """A token in place of the `refused` one, unless another thread has fetched one meanwhile."""
        with self._login_lock:
            if self.headers.get("Authorization") != refused:
                return
            url, body = f"{self._endpoint}/v3/auth/authenticate", {"name": "root", "password": self._password}
            answer = super().request("POST", url, json=body, headers={"Authorization": None}, timeout=self._timeout_s)
            if answer.status_code in _NO_LEADER:
                raise requests.ConnectionError(answer.text.strip())
            if answer.status_code != requests.codes.ok:
                raise ClusterError(f"etcd at {self._endpoint} refused the password of this job: {answer.text.strip()}")
            self.headers["Authorization"] = answer.json()["token"]
