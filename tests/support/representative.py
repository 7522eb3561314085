"""One object of every kind that the operator makes, as rich as it makes them, and accepted by a real server."""

from __future__ import annotations

import copy
from typing import Any

LABELS = {
    "app.kubernetes.io/name": "toolorchestra",
    "app.kubernetes.io/managed-by": "toolorchestra",
    "toolorchestra.dev/pool": "qwen",
}
OWNER = {
    "apiVersion": "toolorchestra.dev/v1alpha1",
    "kind": "ExpertPool",
    "name": "qwen",
    "uid": "6a3c1c1e-0000-4000-8000-000000000001",
    "controller": True,
    "blockOwnerDeletion": True,
}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER: dict[str, Any] = {
    "name": "vllm",
    "image": "example.org/vllm@sha256:" + "0" * 64,
    "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
    "args": ["--model", "/models/qwen", "--port", "8000"],
    "env": [
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        {"name": "EMPTY", "value": ""},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "qwen-key", "key": "key"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "qwen-config"}}],
    "ports": [{"name": "http", "containerPort": 8000}, {"name": "probe", "containerPort": 9000, "protocol": "UDP"}],
    "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2Gi", "nvidia.com/gpu": 1}},
    "startupProbe": {"httpGet": {"path": "/health", "port": "http"}, "failureThreshold": 120, "periodSeconds": 5},
    "readinessProbe": {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 5},
    "livenessProbe": {"tcpSocket": {"port": 8000}},
    "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
    "securityContext": RESTRICTED,
    "volumeMounts": [
        {"name": "models", "mountPath": "/models", "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "config", "mountPath": "/etc/toolorchestra", "readOnly": False},
    ],
}
POD_SPEC: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "serviceAccountName": "qwen",
    "terminationGracePeriodSeconds": 150,
    "securityContext": {"fsGroup": 1000, "runAsUser": 1000},
    "hostNetwork": False,
    "nodeSelector": {"gpu": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "imagePullSecrets": [{"name": "registry"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"toolorchestra.dev/pool": "qwen"}},
        }
    ],
    "initContainers": [{"name": "fetch", "image": "example.org/fetch:1", "args": []}],
    "containers": [CONTAINER],
    "volumes": [
        {"name": "models", "persistentVolumeClaim": {"claimName": "qwen-cache"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8192Mi"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "config", "configMap": {"name": "qwen-config", "items": [{"key": "a", "path": "a"}]}},
        {"name": "key", "secret": {"secretName": "qwen-key", "defaultMode": 256}},
        {
            "name": "about",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    {"secret": {"name": "qwen-key"}},
                ]
            },
        },
    ],
}
TEMPLATE = {"metadata": {"labels": LABELS, "annotations": {"a/b": "c"}}, "spec": POD_SPEC}
SELECTOR = {"matchLabels": {"toolorchestra.dev/pool": "qwen"}}
RAY_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": LABELS},
    "spec": {
        "containers": [
            {
                "name": "ray",
                "image": "example.org/ray:1",
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 6379, "name": "gcs"}, {"containerPort": 8265}],
                "resources": {"limits": {"cpu": "1000m", "memory": "4Gi"}},
            }
        ]
    },
}

SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("apps/v1", "Deployment"): {
        "spec": {
            "replicas": 2,
            "minReadySeconds": 0,
            "progressDeadlineSeconds": 1800,
            "revisionHistoryLimit": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": SELECTOR,
            "template": TEMPLATE,
        }
    },
    ("v1", "Service"): {
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": {"toolorchestra.dev/pool": "qwen"},
            "ports": [
                {"name": "http", "port": 8000, "targetPort": "http"},
                {"name": "probe", "port": 8000, "protocol": "UDP", "targetPort": 9000},
            ],
        }
    },
    ("policy/v1", "PodDisruptionBudget"): {"spec": {"minAvailable": 1, "selector": SELECTOR}},
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {}}, {"namespaceSelector": {}}], "ports": [{"port": 8000}, {"port": "probe"}]}
            ],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, {}],
        }
    },
    ("batch/v1", "Job"): {
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimit": 0,
            "suspend": False,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}},
                ]
            },
            "template": {**TEMPLATE, "spec": {**POD_SPEC, "restartPolicy": "Never"}},
        }
    },
    ("v1", "ConfigMap"): {"data": {"a": "1", "empty": ""}, "binaryData": {"b": "AAE="}},
    ("v1", "Secret"): {"type": "Opaque", "data": {"key": "c2VjcmV0"}, "stringData": {"plain": "text é"}},
    ("v1", "PersistentVolumeClaim"): {
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "102400Mi"}},
            "storageClassName": "fast",
        }
    },
    ("v1", "ServiceAccount"): {"automountServiceAccountToken": False, "imagePullSecrets": [{"name": "registry"}]},
    ("ray.io/v1", "RayJob"): {
        "spec": {
            "entrypoint": "python -m toolorchestra.controller.driver",
            "suspend": True,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "headGroupSpec": {"rayStartParams": {"dashboard-host": "127.0.0.1"}, "template": RAY_TEMPLATE},
                "workerGroupSpecs": [
                    {
                        "groupName": "engines",
                        "replicas": 2,
                        "minReplicas": 2,
                        "maxReplicas": 2,
                        "rayStartParams": {},
                        "template": RAY_TEMPLATE,
                    }
                ],
            },
        }
    },
}


def representative(api_version: str, kind: str, *, namespace: str, name: str = "qwen") -> dict[str, Any]:
    """The object of a kind."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": LABELS,
        "annotations": {"toolorchestra.dev/about": "a test"},
        "ownerReferences": [OWNER],
    }
    # A copy: tests edit what they are given.
    return copy.deepcopy({"apiVersion": api_version, "kind": kind, "metadata": metadata, **SPECS[api_version, kind]})


def a_pool(*, namespace: str, name: str = "qwen") -> dict[str, Any]:
    """A parent."""
    price = {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "1"}
    return {
        "apiVersion": "toolorchestra.dev/v1alpha1",
        "kind": "ExpertPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "Endpoint",
            "roles": ["Answer"],
            "description": "A parent.",
            "price": price,
            "expectedLatencyMilliseconds": 1,
            "endpoint": {"url": "https://example.org/v1", "model": "m"},
        },
    }
