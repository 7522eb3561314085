"""The meaning of every reason, and what to do. docs/conditions.md is generated from this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from toolorchestra.api.reasons import Reason


class Explained(NamedTuple):
    """The explanation of one reason."""

    conditions: str
    """`Condition=Status`, several separated by commas."""
    meaning: str
    """What happened, in one or two sentences."""
    remedy: str
    """What a person must do."""

    @property
    def on(self) -> tuple[str, ...]:
        """The conditions that can have this reason, each with its status: `Accepted=False`."""
        return tuple(self.conditions.split(", "))


_NOTHING = "Nothing."
EXPLAINED: Mapping[Reason, Explained] = {
    Reason.ACCEPTED: Explained(
        "Accepted=True",
        "The resource can run as written, on this cluster.",
        _NOTHING,
    ),
    Reason.INVALID_SPEC: Explained(
        "Accepted=False",
        "A field cannot work as written, or the API server refused an object that was made from it. The message "
        "names the field.",
        "Change that field. If the field is immutable ([immutability.md](immutability.md)), make a new resource.",
    ),
    Reason.INVALID_POD_TEMPLATE: Explained(
        "Accepted=False",
        "`podTemplate` sets a field that the operator owns, or is not a valid pod template. The message has the path "
        "of every mistake.",
        "Remove these paths. [podtemplate.md](podtemplate.md) says what an overlay may set.",
    ),
    Reason.NO_EXPERTS_MATCH: Explained(
        "Accepted=False",
        "`spec.tools.experts.selector` matches no ExpertPool of the namespace that has a role of an expert. The "
        "message lists the pools of the namespace.",
        "Label a pool, apply the missing pools, or change the selector (in a new training).",
    ),
    Reason.POOL_NOT_FOUND: Explained(
        "Accepted=False",
        "An ExpertPool that the training names, or that it was admitted with, does not exist in its namespace.",
        "Apply a pool with that name again.",
    ),
    Reason.SECRET_NOT_FOUND: Explained(
        "Accepted=False",
        "A Secret that a field refers to, or the key in it, does not exist in the namespace of the resource.",
        "Create it: `kubectl create secret generic NAME --from-literal=KEY=…`. A Secret of a pool also needs a label: "
        "see `SecretNotAllowed`.",
    ),
    Reason.SECRET_NOT_ALLOWED: Explained(
        "Accepted=False",
        "A pool refers to a Secret without the label that allows pools to use it. Without this rule, everybody who may "
        "make pools could read every Secret of the namespace.",
        "A person who may change the Secret can allow it: `kubectl label secret NAME "
        "toolorchestra.dev/secret-for=pools`.",
    ),
    Reason.HOST_NOT_ALLOWED: Explained(
        "Accepted=False, Routable=False, Available=False, Degraded=True",
        "The host of `spec.endpoint.url` is not on the operator's list, or it has an address that is never called: "
        "loopback, link-local, the API server's, or a private address if neither the host itself nor its network is on "
        "the list.",
        "Correct the URL, or ask the administrator of the operator to add the host to `pools.allowedHosts` of the "
        "chart.",
    ),
    Reason.CONFIG_MAP_NOT_FOUND: Explained(
        "Accepted=False",
        "The ConfigMap that `spec.descriptionFrom` refers to, or the key in it, does not exist.",
        "Create it, or set `spec.description` instead.",
    ),
    Reason.CLAIM_NOT_FOUND: Explained(
        "Accepted=False",
        "A PersistentVolumeClaim that a field refers to does not exist in the namespace of the resource.",
        "Create the claim, or name another one.",
    ),
    Reason.STORAGE_CLASS_NOT_FOUND: Explained(
        "Accepted=False",
        "A storage class that a field names does not exist.",
        "`kubectl get storageclass` lists the existing ones. Without a name, the default class is used.",
    ),
    Reason.FORBIDDEN: Explained(
        "Accepted=False",
        "The API server refused a request of the operator: a permission is missing, or a quota, pod security or "
        "another admission rule forbids it. The message has the verb, the object and the server's message.",
        "Upgrade the release, which restores the permissions, or change the rule that refuses.",
    ),
    Reason.NAME_TAKEN: Explained(
        "Accepted=False",
        "An object that the operator needs to make exists already and has another owner. The operator never takes it "
        "over.",
        "Delete or rename that object, or give the resource another name. An object of an earlier resource with the "
        "same name is deleted by itself: wait. To use the volume of an earlier training, name it (`ExistingClaim`).",
    ),
    Reason.OPERATOR_FAILED: Explained(
        "Accepted=False",
        "The operator failed with an internal error on the resource. The message has the cause, the operator's log the "
        "details. What runs continues.",
        "This is a bug: report it, with the log. To continue, change the field that has an unusual value.",
    ),
    Reason.RAY_PROVIDER_UNAVAILABLE: Explained(
        "Accepted=False",
        "The Ray provider of `spec.ray.provider` is not available in this cluster.",
        "Do what the message says: use `Auto` or `Builtin`, or install what is missing.",
    ),
    Reason.QUOTA_RESERVED: Explained(
        "QuotaReserved=True",
        "The queue admitted the training.",
        _NOTHING,
    ),
    Reason.QUOTA_PENDING: Explained(
        "QuotaReserved=False, Degraded=True",
        "The queue has not admitted it yet. A scheduling gate holds a pool's pods until then.",
        "Wait, or check the queue: `kubectl get workloads`, `kubectl describe clusterqueue`.",
    ),
    Reason.QUOTA_UNKNOWN: Explained(
        "QuotaReserved=Unknown",
        "The resource names a queue, but nothing in the cluster handles this queue. Nothing is started.",
        "Install Kueue, create the LocalQueue, or remove `spec.queueName` (in a new training).",
    ),
    Reason.NO_QUEUE: Explained(
        "QuotaReserved=True",
        "No queue is named, so the training does not wait for quota.",
        _NOTHING,
    ),
    Reason.PREEMPTED: Explained(
        "Running=False, QuotaReserved=False",
        "The queue took the quota back. Training continues from the last checkpoint when it is admitted again. This "
        "does not count against `backoffLimit`.",
        "Nothing. If it happens often, use a priority class or get more quota.",
    ),
    Reason.STREAMS_READY: Explained(
        "MessagingReady=True",
        "Streams, consumers and buckets of the training exist.",
        _NOTHING,
    ),
    Reason.STREAMS_PENDING: Explained(
        "MessagingReady=False",
        "Streams, consumers and buckets are being made. What uses them starts afterwards.",
        _NOTHING,
    ),
    Reason.MESSAGING_UNREACHABLE: Explained(
        "MessagingReady=False",
        "NATS cannot be reached, or it refuses the credentials or the streams. The message has the error of NATS.",
        "Check that its pod runs, that JetStream is on, and that URL and account are right: `kubectl logs` of NATS and "
        "of the operator.",
    ),
    Reason.EXPERTS_READY: Explained(
        "ExpertsReady=True",
        "Every expert of the training is ready.",
        _NOTHING,
    ),
    Reason.EXPERTS_UNAVAILABLE: Explained(
        "ExpertsReady=False",
        "The pools that the message names are not ready. Before it starts, the training waits for them. While it runs, "
        "episodes that need them are deferred and tried again.",
        "`kubectl describe xp NAME`: the pool's conditions say why.",
    ),
    Reason.CLUSTER_STARTING: Explained(
        "ClusterReady=False, Running=False",
        "The Ray cluster is starting. The message says how many pods are ready, what they wait for, or why a container "
        "does not start.",
        "Wait some minutes (images, weights). After `startDeadlineSeconds` the training fails with the pods' messages.",
    ),
    Reason.CLUSTER_READY: Explained(
        "ClusterReady=True",
        "Head, trainers and engines are ready.",
        _NOTHING,
    ),
    Reason.UNSCHEDULABLE: Explained(
        "ClusterReady=False, Degraded=True",
        "No node fits a pod. The message is the scheduler's.",
        "Free or add what is missing (GPUs, memory, a volume), request less, or add a toleration with `podTemplate`.",
    ),
    Reason.PODS_REFUSED: Explained(
        "ClusterReady=False",
        "Pods cannot be made: a quota, pod security, a missing PriorityClass or ServiceAccount, or a webhook refuses "
        "them. The message has the API server's error.",
        "Do what the error says: raise the quota, request less (`resources`), make what is missing, or remove from "
        "`podTemplate` what is refused. The training then continues by itself.",
    ),
    Reason.IMAGE_PULL_FAILED: Explained(
        "ClusterReady=False, Degraded=True",
        "An image cannot be pulled. The message is the kubelet's.",
        "Check the name, that the image was pushed, and that the node reaches the registry. Credentials: "
        "`imagePullSecrets` of the chart or of `podTemplate`.",
    ),
    Reason.START_DEADLINE_EXCEEDED: Explained(
        "Failed=True",
        "The cluster did not begin to train within `spec.startDeadlineSeconds`. Its pods are kept for "
        "`keepFailedSeconds` for debugging, then deleted.",
        "Correct what the message says about the pods, or raise the deadline; then make a new training.",
    ),
    Reason.ACTIVE_DEADLINE_EXCEEDED: Explained(
        "Failed=True",
        "`spec.activeDeadlineSeconds` have passed since the training was admitted.",
        "Make a new training. `status.checkpoint` names the last checkpoint of this one.",
    ),
    Reason.TRAINING: Explained(
        "Running=True",
        "The training makes steps.",
        _NOTHING,
    ),
    Reason.WARM_STARTING: Explained(
        "Running=False",
        "The training makes the supervised steps before the reinforcement learning.",
        _NOTHING,
    ),
    Reason.EVALUATING: Explained(
        "Running=True",
        "The training runs an evaluation suite.",
        _NOTHING,
    ),
    Reason.RESTARTING: Explained(
        "Running=False, ClusterReady=False",
        "The attempt ended, and the next one continues from the last checkpoint. The message quotes its last output.",
        "Nothing, unless it repeats. `status.restarts` counts failures of the program; `backoffLimit` limits them.",
    ),
    Reason.STEPS_DONE: Explained(
        "Complete=True, Running=False, ClusterReady=False",
        "All steps are done, and the model is exported to `status.exportURI`.",
        _NOTHING,
    ),
    Reason.SPEND_CAP_REACHED: Explained(
        "Running=False",
        "The training spent `spec.limits.maxSpendUSD`, and is paused.",
        "Raise the limit: the next attempt continues from the checkpoint.",
    ),
    Reason.FAILURE_RATE_EXCEEDED: Explained(
        "Running=False",
        "Too many episodes ended with infrastructure failures. The training is paused before it spends more.",
        "The message has the most frequent causes. Correct them, then suspend and resume the training.",
    ),
    Reason.GROUPS_EXHAUSTED: Explained(
        "Running=False",
        "The filters left too few groups, and the limit of refills is reached. The training is paused.",
        "Make a new training with tasks that are sometimes solved and sometimes not, or with less strict "
        "`algorithm.filters`.",
    ),
    Reason.OUTPUTS_UNREADABLE: Explained(
        "Running=False",
        "Almost none of the policy's recent outputs could be read as tool calls, so they are excluded from the "
        "training; or, with `requireFormat: false`, almost none belonged to an episode with a right answer. The "
        "training is paused before it trains on nothing.",
        "Make a new training, see [your-model.md](your-model.md): check a prompt, add `spec.warmStart`, or, if some "
        "answers are right, set `requireFormat: false`.",
    ),
    Reason.NOTHING_LEARNED: Explained(
        "Running=False",
        "Several steps in a row had nothing to train on: all their groups were dropped, or the filters excluded all "
        "their episodes. The training is paused. The message says which.",
        "Make a new training, see [your-model.md](your-model.md): with tasks that are sometimes solved and sometimes "
        "not, or with less strict `algorithm.filters`.",
    ),
    Reason.EXPERT_MISCONFIGURED: Explained(
        "Running=False",
        "An expert reports that its configuration is wrong (key, credit, model, a parameter), or it refuses every "
        "call. The message has its name and its error. The training is paused before it spends more.",
        "Correct the pool or its Secret. A changed pool starts the next attempt; after changing a Secret, suspend and "
        "resume the training.",
    ),
    Reason.EXPERT_OUT: Explained(
        "Running=False",
        "An expert has been unavailable for half an hour, and every remaining episode waits for it. The training is "
        "paused.",
        "When the expert answers again, suspend and resume the training.",
    ),
    Reason.STEPS_NOT_FINITE: Explained(
        "Running=False",
        "Several optimizer steps in a row had a loss or gradient that is not finite. None of them was applied, their "
        "groups are not used again, and the training is paused.",
        "Make a new training with a lower learning rate or a longer warm-up. If the weights are already not finite, "
        "start it from an earlier checkpoint.",
    ),
    Reason.MODEL_REFUSED: Explained(
        "Running=False",
        "The trainer's computation differs from the model's, so it would train another model. The message says which "
        "part differs.",
        "Use another model: [models.md](models.md) lists the families that were compared. If the message names a "
        "setting, you can change it in the model's config.json.",
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: Explained(
        "Failed=True",
        "The program failed more than `spec.backoffLimit` times. The message quotes its last output.",
        "Read `kubectl logs` of the head while it is kept (`keepFailedSeconds`), later the logs in storage. Then make "
        "a new training.",
    ),
    Reason.PROGRAM_FAILED: Explained(
        "Running=False, ClusterReady=False",
        "The program failed, or it has paused (then `Running` has the reason). The message quotes its last output.",
        "Do what the message says, and read `kubectl logs` of the head.",
    ),
    Reason.CLUSTER_REFUSED: Explained(
        "Failed=True, ClusterReady=False",
        "KubeRay's operator refuses the RayJob, and would refuse it again. The message has its error.",
        "Make a new training without what the error names, or install a KubeRay that supports it (1.6 or later).",
    ),
    Reason.SUSPENDING: Explained(
        "Suspended=True, Running=False, ClusterReady=False",
        "`spec.suspend` is true: the training writes a last checkpoint, then compute is released.",
        "Nothing. The reason then becomes `SuspendedByUser`.",
    ),
    Reason.SUSPENDED_BY_USER: Explained(
        "Suspended=True, Running=False, ClusterReady=False",
        "`spec.suspend` is true, and compute is released.",
        "Set it to false to continue.",
    ),
    Reason.NOT_SUSPENDED: Explained(
        "Suspended=False",
        "`spec.suspend` is false.",
        _NOTHING,
    ),
    Reason.ROLLING_OUT: Explained(
        "Progressing=True, Degraded=False",
        "Replicas are being made or replaced. No request is lost.",
        _NOTHING,
    ),
    Reason.ROLLED_OUT: Explained(
        "Progressing=False",
        "All replicas run the current spec, or the pool serves nothing here.",
        _NOTHING,
    ),
    Reason.MINIMUM_AVAILABLE: Explained(
        "Available=True",
        "At least `minAvailable` replicas are ready.",
        _NOTHING,
    ),
    Reason.BELOW_MINIMUM: Explained(
        "Available=False, Routable=False",
        "Fewer than `minAvailable` replicas are ready (`Routable`: none is).",
        "The condition `Degraded` says why. A first start takes minutes.",
    ),
    Reason.REPLICAS_MISSING: Explained(
        "Degraded=True, Progressing=False",
        "Replicas are missing, cannot be made, or end again and again. The message has the container's last lines, or "
        "says who refuses the pods.",
        "Read `kubectl logs` of the pod, with `--previous`. Usual causes: memory, a vLLM flag, or a model that does "
        "not fit.",
    ),
    Reason.ALL_REPLICAS_READY: Explained(
        "Degraded=False",
        "All replicas are ready.",
        _NOTHING,
    ),
    Reason.SCALED_TO_ZERO: Explained(
        "Progressing=False, Available=False, Degraded=False, Routable=False, Ready=False",
        "`spec.vllm.replicas` is 0.",
        "`kubectl scale xp NAME --replicas=1`.",
    ),
    Reason.PROBE_ANSWERED: Explained(
        "Routable=True, Available=True, Degraded=False",
        "The expert answered the probe, with the expected model.",
        _NOTHING,
    ),
    Reason.PROBE_FAILED: Explained(
        "Routable=False, Available=False, Degraded=True",
        "The expert did not answer the probe, or answered with an error. The message has the status.",
        "401: check the key. 404: check the URL (often `/v1` is missing). No connection: check network policy, proxy "
        "and DNS.",
    ),
    Reason.PROBE_DISABLED: Explained(
        "Routable=Unknown, Available=Unknown, Degraded=False",
        "`spec.endpoint.probe` is `None`. It is not known whether the expert answers; it counts as ready.",
        _NOTHING,
    ),
    Reason.PROBE_PENDING: Explained(
        "Routable=Unknown, Available=Unknown, Degraded=False",
        "The first probe has not ended yet.",
        "Wait a minute.",
    ),
    Reason.WRONG_MODEL_SERVED: Explained(
        "Routable=False, Available=False, Degraded=True",
        "The server does not list the model `spec.endpoint.model`.",
        'Correct `spec.endpoint.model`: `curl -H "Authorization: Bearer …" URL/models` lists its models.',
    ),
    Reason.READY: Explained(
        "Ready=True",
        "The expert can be called.",
        _NOTHING,
    ),
    Reason.NOT_READY: Explained(
        "Ready=False, Progressing=False, Progressing=Unknown, Available=Unknown, Degraded=False, Degraded=Unknown, "
        "Routable=Unknown",
        "The expert cannot be called. The message names the condition that says why. `Unknown`: the pool was refused "
        "before it could be observed.",
        "Read that condition.",
    ),
}
