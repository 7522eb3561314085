"""The API server as tests talk to it: JSON in, JSON out, refusals as they were worded; synchronous, without caches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kubernetes import config

from testbed.documents import documents
from toolorchestra.api.core_yaml import json_in_yaml

Json = dict[str, Any]

MANAGER = "toolorchestra-tests"
USER_AGENT = "toolorchestra-tests"
_APPLY = "application/apply-patch+yaml"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Refused(RuntimeError):
    """An answer that is no success; `message` is the server's own."""

    def __init__(self, code: int, answer: Json) -> None:
        self.code = code
        self.reason: str = answer.get("reason", "")
        self.message: str = answer.get("message", "")
        self.causes: list[Json] = (answer.get("details") or {}).get("causes") or []
        super().__init__(f"{code} {self.reason}: {self.message}")


class Api:
    """Requests as the user of a kubeconfig."""

    def __init__(self, kubeconfig: Path, *, user_agent: str = USER_AGENT) -> None:
        self._client = config.new_client_from_config(str(kubeconfig), persist_config=False)  # type: ignore[no-untyped-call]
        self._client.user_agent = user_agent

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: str = "",
        accept: str = "application/json",
        **query: str,
    ) -> Json:
        """One request; `path` is the whole path, `query` its parameters.

        Raises:
            Refused: the status is not of the 200s.
        """
        headers = {"Accept": accept, "Content-Type": content or "application/json"}
        # The client encodes JSON itself, whatever its name; what it would take for YAML it gets as text.
        data = json_in_yaml(body) if content == _APPLY else body
        prepared = self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list(query.items()),
            header_params=headers,
            body=data,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*prepared, _request_timeout=60)
        text = response.read() or b"{}"
        answer: Json = json.loads(text) if text.lstrip().startswith(b"{") else {"message": text.decode()}
        if not 200 <= response.status <= 299:
            raise Refused(response.status, answer)
        return answer

    def get(self, path: str) -> Json:
        return self.request("GET", path)

    def create(self, path: str, body: Mapping[str, Any], **query: str) -> Json:
        """POST to a collection, strictly: unknown and doubled fields are refused, as with `kubectl`."""
        return self.request("POST", path, body=dict(body), fieldValidation="Strict", **query)

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str = MANAGER, **query: str) -> Json:
        """Server-side apply of one object, taking over what others own."""
        return self.request("PATCH", path, body=dict(body), content=_APPLY, fieldManager=manager, force="true", **query)

    def merge(self, path: str, body: Mapping[str, Any], *, manager: str = MANAGER) -> Json:
        """A JSON merge patch: one edit by hand."""
        return self.request(
            "PATCH", path, body=dict(body), content="application/merge-patch+json", fieldManager=manager
        )

    def delete(self, path: str, **query: str) -> Json:
        return self.request("DELETE", path, **query)

    def apply_crds(self, files: Iterable[Path], *, seconds: float = 60.0) -> list[str]:
        """Apply CRDs server-side and wait until each is served; returns their names."""
        names = []
        for file in files:
            for document in documents(file.read_text(encoding="utf-8")):
                names.append(document["metadata"]["name"])
                self.apply(f"{_CRDS}/{names[-1]}", document)
        deadline = time.monotonic() + seconds
        for name in names:
            while not self._served(name):
                if time.monotonic() > deadline:
                    conditions = self.get(f"{_CRDS}/{name}")["status"].get("conditions", [])
                    raise TimeoutError(f"the CRD {name} is not served after {seconds:.0f} s: {conditions}")
                time.sleep(0.05)
        return names

    def _served(self, name: str) -> bool:
        """Established, and there: discovery lags behind the condition."""
        crd = self.get(f"{_CRDS}/{name}")
        if not any(
            one["type"] == "Established" and one["status"] == "True"
            for one in crd.get("status", {}).get("conditions") or []
        ):
            return False
        spec = crd["spec"]
        for version in spec["versions"]:
            try:
                self.get(f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}")
            except Refused as refused:
                if refused.code == 404:
                    return False
                raise
        return True
