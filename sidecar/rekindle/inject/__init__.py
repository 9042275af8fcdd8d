"""Adding the sidecar to existing pods: manifests in, manifests out. Nothing here talks to a cluster.

documents   a stream of YAML documents, of which those that are not changed keep their bytes
kinds       where the pod templates of each kind of object are
script      `sh -c "…"`: its commands as words, and changed
engine      which container of a pod is the engine, and by which plugin
additions   what is added to a pod, as plain values
room        whether the pod has its names, folders and port free for it
choices     what is decided: GPUs, the user, shared memory
service_port  the engine's port, taken over by the stream proxy
edits       changes that can be undone: each is written down in an annotation of the pod
scalars     strings that mean the same to every reader of YAML
options     what is wanted: by the user for all pods, by annotations for one
pod         the edits of one pod, and how they are taken back
rewrite     the way of a stream, object by object: un-inject, find the engine, edit, or leave it as it was
"""

from rekindle.inject.choices import GpuMode
from rekindle.inject.options import Options
from rekindle.inject.rewrite import Outcome, Rewritten, inject, pod_count, uninject

__all__ = ["GpuMode", "Options", "Outcome", "Rewritten", "inject", "pod_count", "uninject"]
