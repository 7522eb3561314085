"""Every reason in words: what `kubectl describe` has no room for, and docs/conditions.md is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from toolorchestra.api.reasons import Reason


class Explained(NamedTuple):
    """A reason in words."""

    conditions: str
    """`Condition=Status`, with commas between."""
    meaning: str
    """What has happened, in a line or two."""
    remedy: str
    """What a person is to do about it."""

    @property
    def on(self) -> tuple[str, ...]:
        """The conditions that it is written on, each with its status: `Accepted=False`."""
        return tuple(self.conditions.split(", "))


_NOTHING = "Nothing."
EXPLAINED: Mapping[Reason, Explained] = {
    Reason.ACCEPTED: Explained(
        "Accepted=True",
        "The resource can work as written and as the cluster is.",
        _NOTHING,
    ),
    Reason.INVALID_SPEC: Explained(
        "Accepted=False",
        "A field cannot work as written, or the API server refused an object that was made from it. The message "
        "names the field.",
        "Change that field. What cannot be changed any more ([immutability.md](immutability.md)) needs a new resource.",
    ),
    Reason.INVALID_POD_TEMPLATE: Explained(
        "Accepted=False",
        "`podTemplate` sets what the operator owns, or is no pod template. The message has the path of every mistake.",
        "Take these paths out; what an overlay may set is in [podtemplate.md](podtemplate.md).",
    ),
    Reason.NO_EXPERTS_MATCH: Explained(
        "Accepted=False",
        "`spec.tools.experts.selector` matches no ExpertPool of the namespace that has a role of an expert. The "
        "message lists the pools that there are.",
        "Label a pool, apply the pools that are missing, or change the selector (in a new training).",
    ),
    Reason.POOL_NOT_FOUND: Explained(
        "Accepted=False",
        "An ExpertPool that the training names, or was admitted with, does not exist in its namespace.",
        "Apply it again under that name.",
    ),
    Reason.SECRET_NOT_FOUND: Explained(
        "Accepted=False",
        "A Secret that a field refers to, or the key in it, does not exist in the namespace of the resource.",
        "Create it: `kubectl create secret generic NAME --from-literal=KEY=…`; one of a pool needs a label, too: "
        "`SecretNotAllowed`.",
    ),
    Reason.SECRET_NOT_ALLOWED: Explained(
        "Accepted=False",
        "A pool refers to a Secret whose label does not say that it is for pools. Whoever may make pools could "
        "otherwise read every Secret of the namespace.",
        "Whoever may change the Secret can agree: `kubectl label secret NAME toolorchestra.dev/secret-for=pools`.",
    ),
    Reason.HOST_NOT_ALLOWED: Explained(
        "Accepted=False, Routable=False, Available=False, Degraded=True",
        "The host of `spec.endpoint.url` is not on the operator's list, or it has an address at which nobody is asked: "
        "loopback, link-local, the API server's, or a private one where neither the host itself nor its network is on "
        "the list.",
        "Correct the URL; or whoever runs the operator adds the host to `pools.allowedHosts` of the chart.",
    ),
    Reason.CONFIG_MAP_NOT_FOUND: Explained(
        "Accepted=False",
        "The ConfigMap that `spec.descriptionFrom` refers to, or the key in it, does not exist.",
        "Create it, or write `spec.description`.",
    ),
    Reason.CLAIM_NOT_FOUND: Explained(
        "Accepted=False",
        "A PersistentVolumeClaim that a field refers to does not exist in the namespace of the resource.",
        "Create the claim, or name another.",
    ),
    Reason.STORAGE_CLASS_NOT_FOUND: Explained(
        "Accepted=False",
        "A storage class that is named does not exist.",
        "`kubectl get storageclass` lists those that do; without a name the default one is used.",
    ),
    Reason.FORBIDDEN: Explained(
        "Accepted=False",
        "The API server refused the operator something: a right is missing, or a quota, pod security or another "
        "admission rule says no. The message names verb, object and the server's words.",
        "Upgrade the release, which brings the rights back; or lift what refuses.",
    ),
    Reason.NAME_TAKEN: Explained(
        "Accepted=False",
        "An object that the operator needs to make is there already and belongs to somebody else. It is never taken "
        "over.",
        "Delete or rename that object, or give the resource another name. One that an earlier resource of the name "
        "left goes by itself; a volume that an earlier training kept is used by naming it (`ExistingClaim`).",
    ),
    Reason.OPERATOR_FAILED: Explained(
        "Accepted=False",
        "The operator broke on the resource. The message has the cause, its log the whole story. What runs goes on.",
        "Change a field that has an odd value; report it, with the log: that should not happen.",
    ),
    Reason.RAY_PROVIDER_UNAVAILABLE: Explained(
        "Accepted=False",
        "The Ray provider that `spec.ray.provider` asks for is not to be had in this cluster.",
        "As the message says: use `Auto` or `Builtin`, or install what is missing.",
    ),
    Reason.QUOTA_RESERVED: Explained(
        "QuotaReserved=True",
        "The queue admitted the training.",
        _NOTHING,
    ),
    Reason.QUOTA_PENDING: Explained(
        "QuotaReserved=False, Degraded=True",
        "The queue has not admitted it yet; a pool's pods are held back by a scheduling gate.",
        "Wait, or look at the queue: `kubectl get workloads`, `kubectl describe clusterqueue`.",
    ),
    Reason.QUOTA_UNKNOWN: Explained(
        "QuotaReserved=Unknown",
        "A queue is named, and nothing answers for it. Nothing is started.",
        "Install Kueue, create the LocalQueue, or leave `spec.queueName` out (in a new training).",
    ),
    Reason.NO_QUEUE: Explained(
        "QuotaReserved=True",
        "No queue is named: quota is not awaited.",
        _NOTHING,
    ),
    Reason.PREEMPTED: Explained(
        "Running=False, QuotaReserved=False",
        "The queue took the quota back. Training goes on from the last checkpoint when it is admitted again; this "
        "never counts against `backoffLimit`.",
        "Nothing; if it happens often, a priority class or more quota.",
    ),
    Reason.STREAMS_READY: Explained(
        "MessagingReady=True",
        "Streams, consumers and buckets of the training exist.",
        _NOTHING,
    ),
    Reason.STREAMS_PENDING: Explained(
        "MessagingReady=False",
        "Streams, consumers and buckets are being made, before anything that uses them is started.",
        _NOTHING,
    ),
    Reason.MESSAGING_UNREACHABLE: Explained(
        "MessagingReady=False",
        "NATS cannot be reached, or refuses: the credentials, or the streams. The message has its words.",
        "Is its pod running, is JetStream on, are URL and account right? `kubectl logs` of NATS and of the operator.",
    ),
    Reason.EXPERTS_READY: Explained(
        "ExpertsReady=True",
        "Every expert of the training is ready.",
        _NOTHING,
    ),
    Reason.EXPERTS_UNAVAILABLE: Explained(
        "ExpertsReady=False",
        "The pools that the message names are not ready. Before the start the training waits for them; while it "
        "runs, their episodes are deferred and tried again.",
        "`kubectl describe xp NAME`: its conditions say why.",
    ),
    Reason.CLUSTER_STARTING: Explained(
        "ClusterReady=False, Running=False",
        "The Ray cluster is coming up: the message says how many of its pods are ready, what they wait for, or why "
        "a container does not start.",
        "Nothing for some minutes (images, weights); after `startDeadlineSeconds` the training fails with the pods' "
        "words.",
    ),
    Reason.CLUSTER_READY: Explained(
        "ClusterReady=True",
        "Head, trainers and engines are up.",
        _NOTHING,
    ),
    Reason.UNSCHEDULABLE: Explained(
        "ClusterReady=False, Degraded=True",
        "A pod finds no node. The message is the scheduler's.",
        "Free or add what it lacks (GPUs, memory, a volume), ask for less, or add a toleration by `podTemplate`.",
    ),
    Reason.PODS_REFUSED: Explained(
        "ClusterReady=False",
        "Pods cannot be made: a quota, pod security, a missing PriorityClass or ServiceAccount, or a webhook refuses "
        "them. The message has the API server's words.",
        "Do what the words say: raise the quota, ask for less (`resources`), make what is missing, or take out of "
        "`podTemplate` what is refused. It goes on by itself.",
    ),
    Reason.IMAGE_PULL_FAILED: Explained(
        "ClusterReady=False, Degraded=True",
        "An image cannot be pulled. The message is the kubelet's.",
        "Is the name right, was it pushed, does the node reach the registry? Credentials: `imagePullSecrets` of the "
        "chart or of `podTemplate`.",
    ),
    Reason.START_DEADLINE_EXCEEDED: Explained(
        "Failed=True",
        "The cluster did not begin to train within `spec.startDeadlineSeconds`. Its pods stay `keepFailedSeconds` "
        "for a look and are then given back.",
        "Mend what the message says of the pods, or raise the deadline; then make a new training.",
    ),
    Reason.ACTIVE_DEADLINE_EXCEEDED: Explained(
        "Failed=True",
        "`spec.activeDeadlineSeconds` have passed since the training was admitted.",
        "A new training; `status.checkpoint` says what this one left.",
    ),
    Reason.TRAINING: Explained(
        "Running=True",
        "Steps are being made.",
        _NOTHING,
    ),
    Reason.WARM_STARTING: Explained(
        "Running=False",
        "The supervised steps before the reinforcement learning are being made.",
        _NOTHING,
    ),
    Reason.EVALUATING: Explained(
        "Running=True",
        "A suite is being run.",
        _NOTHING,
    ),
    Reason.RESTARTING: Explained(
        "Running=False, ClusterReady=False",
        "The attempt ended and the next one goes on from the last checkpoint. The message has its last words.",
        "Nothing, unless it repeats: `status.restarts` counts failures of the program, `backoffLimit` ends them.",
    ),
    Reason.STEPS_DONE: Explained(
        "Complete=True, Running=False, ClusterReady=False",
        "All steps are done and the model is exported: `status.exportURI`.",
        _NOTHING,
    ),
    Reason.SPEND_CAP_REACHED: Explained(
        "Running=False",
        "`spec.limits.maxSpendUSD` is reached. The training is paused.",
        "Raise it: the next attempt goes on from the checkpoint.",
    ),
    Reason.FAILURE_RATE_EXCEEDED: Explained(
        "Running=False",
        "Too many episodes ended in failures of infrastructure. The training is paused before it spends more.",
        "The message has the commonest causes. Mend them, then suspend and resume the training.",
    ),
    Reason.GROUPS_EXHAUSTED: Explained(
        "Running=False",
        "The filters left too few groups, and the refill limit is reached. The training is paused.",
        "Tasks that are neither always nor never solved, or looser `algorithm.filters`: a new training.",
    ),
    Reason.OUTPUTS_UNREADABLE: Explained(
        "Running=False",
        "Nearly all of the policy's last outputs could not be read as tool calls, and are left out of the "
        "training; or, with `requireFormat: false`, next to none was of an episode with a right answer. It is paused "
        "before it trains on nothing.",
        "[your-model.md](your-model.md): look at a prompt, add `spec.warmStart`, or, where some answers are right, set "
        "`requireFormat: false`: a new training.",
    ),
    Reason.NOTHING_LEARNED: Explained(
        "Running=False",
        "Several steps in a row had nothing to train on: their groups were all dropped, or the filters left out all "
        "of their episodes. The training is paused. The message says which.",
        "[your-model.md](your-model.md); tasks that are neither always nor never solved, or looser "
        "`algorithm.filters`: a new training.",
    ),
    Reason.EXPERT_MISCONFIGURED: Explained(
        "Running=False",
        "An expert says that its configuration is wrong (key, credit, model, a parameter), or refuses every call. The "
        "message has its name and its words. The training is paused before it spends more.",
        "Mend the pool, or its Secret: a changed pool is the next attempt; after a changed Secret suspend and resume.",
    ),
    Reason.EXPERT_OUT: Explained(
        "Running=False",
        "An expert has been out for half an hour, and every episode that is left waits for it. The training is paused.",
        "When the expert answers again, suspend and resume the training.",
    ),
    Reason.STEPS_NOT_FINITE: Explained(
        "Running=False",
        "Several optimizer steps in a row had a loss or gradient that is not finite. None was applied, their groups "
        "are set aside, and the training is paused.",
        "A lower learning rate, or a longer warm-up of it, in a new training; where the weights are broken already, "
        "from an earlier checkpoint.",
    ),
    Reason.MODEL_REFUSED: Explained(
        "Running=False",
        "The trainer does not compute what the model computes, so what it would train is another model. The message "
        "says which part differs.",
        "Another model: [models.md](models.md) lists families that were compared. What the message calls a setting "
        "can be changed in the model's config.json.",
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: Explained(
        "Failed=True",
        "The program failed more than `spec.backoffLimit` times. The message has its last words.",
        "`kubectl logs` of the head while it is kept (`keepFailedSeconds`), later the logs in storage; then a new "
        "training.",
    ),
    Reason.PROGRAM_FAILED: Explained(
        "Running=False, ClusterReady=False",
        "The program failed, or has paused (then `Running` has the reason). The message has its last words.",
        "As the message says; `kubectl logs` of the head.",
    ),
    Reason.CLUSTER_REFUSED: Explained(
        "Failed=True, ClusterReady=False",
        "KubeRay's operator refuses the RayJob as it is, and would refuse it again. The message has its words.",
        "A new training without what the words name; or a KubeRay that knows it (1.6 or later).",
    ),
    Reason.SUSPENDING: Explained(
        "Suspended=True, Running=False, ClusterReady=False",
        "`spec.suspend` is true: a last checkpoint is written, then compute is given back.",
        "Nothing: it becomes `SuspendedByUser`.",
    ),
    Reason.SUSPENDED_BY_USER: Explained(
        "Suspended=True, Running=False, ClusterReady=False",
        "`spec.suspend` is true, and compute is given back.",
        "Set it to false to go on.",
    ),
    Reason.NOT_SUSPENDED: Explained(
        "Suspended=False",
        "`spec.suspend` is false.",
        _NOTHING,
    ),
    Reason.ROLLING_OUT: Explained(
        "Progressing=True, Degraded=False",
        "Replicas are being made or replaced, without a request being lost.",
        _NOTHING,
    ),
    Reason.ROLLED_OUT: Explained(
        "Progressing=False",
        "All replicas run the spec (or nothing is served here).",
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
        "Condition `Degraded` says what stands in the way; a first start takes minutes.",
    ),
    Reason.REPLICAS_MISSING: Explained(
        "Degraded=True, Progressing=False",
        "Replicas are missing, cannot be made, or end again and again. The message has the container's last words "
        "or who refuses the pods.",
        "Mostly memory, a flag of vLLM, or a model that does not fit: `kubectl logs` of the pod, with `--previous`.",
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
        "The expert answered the probe as itself.",
        _NOTHING,
    ),
    Reason.PROBE_FAILED: Explained(
        "Routable=False, Available=False, Degraded=True",
        "The expert did not answer the probe, or with an error. The message has the status.",
        "401: the key; 404: the URL (mostly `/v1` is missing); no connection: network policy, proxy, DNS.",
    ),
    Reason.PROBE_DISABLED: Explained(
        "Routable=Unknown, Available=Unknown, Degraded=False",
        "`spec.endpoint.probe` is `None`: whether the expert answers is not known, and it counts as ready.",
        _NOTHING,
    ),
    Reason.PROBE_PENDING: Explained(
        "Routable=Unknown, Available=Unknown, Degraded=False",
        "The first probe has not ended yet.",
        "Wait a minute.",
    ),
    Reason.WRONG_MODEL_SERVED: Explained(
        "Routable=False, Available=False, Degraded=True",
        "The server does not list the model that is asked for.",
        'Correct `spec.endpoint.model`: `curl -H "Authorization: Bearer …" URL/models` shows what it has.',
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
        "before anything could be seen.",
        "Look at that condition.",
    ),
}
