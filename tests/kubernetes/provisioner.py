"""Volumes for the test cluster: stands in for a storage provider's provisioner and resizer.

    provisioner.py KUBECONFIG DIRECTORY

Every claim of one of its storage classes gets a directory below DIRECTORY as its volume (below DIRECTORY/NAME if the
class has the parameter `below: NAME`), once a pod that uses it is scheduled. A claim that grows gets its new size in the
status; a released volume is removed with its data if its policy is Delete. The program polls the state twice a second
and does not rely on events, so nothing is missed.
"""

import datetime
import os
import shutil
import sys
import time

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity

PROVISIONER = "ropewalk.dev/test-directory"
NODE_OF_CLAIM = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
PERIOD_SECONDS = 0.5


def provision(core, directory, claim, storage_class):
    """Creates the volume of a pending claim."""
    meta, spec = claim.metadata, claim.spec
    waits_for_pod = storage_class.volume_binding_mode == "WaitForFirstConsumer"
    if waits_for_pod and NODE_OF_CLAIM not in (meta.annotations or {}):
        return
    name = f"pvc-{meta.uid}"
    path = os.path.join(directory, (storage_class.parameters or {}).get("below", ""), name)
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o777)  # Kubernetes sets no group on such a volume.
    volume = client.V1PersistentVolume(
        metadata=client.V1ObjectMeta(name=name, annotations={PROVISIONED_BY: PROVISIONER}),
        spec=client.V1PersistentVolumeSpec(
            capacity={"storage": spec.resources.requests["storage"]},
            access_modes=spec.access_modes,
            storage_class_name=spec.storage_class_name,
            persistent_volume_reclaim_policy=storage_class.reclaim_policy,
            host_path=client.V1HostPathVolumeSource(path=path),
            claim_ref=client.V1ObjectReference(
                api_version="v1", kind="PersistentVolumeClaim", name=meta.name, namespace=meta.namespace, uid=meta.uid
            ),
        ),
    )
    try:
        core.create_persistent_volume(volume)
    except ApiException as error:
        if error.status != 409:
            raise


def say(core, claim, status):
    core.patch_namespaced_persistent_volume_claim_status(claim.metadata.name, claim.metadata.namespace, {"status": status})


def is_remounted(core, claim, since):
    """Whether a pod that uses the claim was created since."""
    pods = core.list_namespaced_pod(claim.metadata.namespace).items
    claims = lambda pod: [v.persistent_volume_claim.claim_name for v in pod.spec.volumes or [] if v.persistent_volume_claim]
    return any(claim.metadata.name in claims(pod) and pod.metadata.creation_timestamp > since for pod in pods)


def resize(core, claim, parameters):
    """A directory needs no resize: reports the new size, or what the class defines instead."""
    wanted = claim.spec.resources.requests["storage"]
    if (claim.status.capacity or {}).get("storage") == wanted:
        return
    if "most" in parameters and parse_quantity(wanted) > parse_quantity(parameters["most"]):
        say(core, claim, {"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}})
        return
    core.patch_persistent_volume(claim.spec.volume_name, {"spec": {"capacity": {"storage": wanted}}})
    pending = next((c for c in claim.status.conditions or [] if c.type == "FileSystemResizePending"), None)
    if parameters.get("grows") == "remounted" and pending is None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        say(core, claim, {"conditions": [{"type": "FileSystemResizePending", "status": "True", "lastTransitionTime": now}]})
        return
    if pending is None or is_remounted(core, claim, pending.last_transition_time):
        say(core, claim, {"capacity": {"storage": wanted}, "conditions": None, "allocatedResourceStatuses": None})


def remove(core, volume):
    shutil.rmtree(volume.spec.host_path.path, ignore_errors=True)
    core.delete_persistent_volume(volume.metadata.name)


def look(core, storage, directory):
    """One pass over all objects; the next pass retries failures."""
    classes = {c.metadata.name: c for c in storage.list_storage_class().items if c.provisioner == PROVISIONER}
    steps = []
    for claim in core.list_persistent_volume_claim_for_all_namespaces().items:
        storage_class = classes.get(claim.spec.storage_class_name)
        if storage_class is None or claim.metadata.deletion_timestamp:
            continue
        if claim.status.phase == "Pending":
            steps.append(lambda c=claim, s=storage_class: provision(core, directory, c, s))
        elif claim.status.phase == "Bound":
            steps.append(lambda c=claim, p=storage_class.parameters or {}: resize(core, c, p))
    for volume in core.list_persistent_volume().items:
        ours = (volume.metadata.annotations or {}).get(PROVISIONED_BY) == PROVISIONER
        released = volume.status.phase == "Released" and not volume.metadata.deletion_timestamp
        if ours and released and volume.spec.persistent_volume_reclaim_policy == "Delete":
            steps.append(lambda v=volume: remove(core, v))
    for step in steps:
        try:
            step()
        except ApiException as error:
            print(f"{error.status} {error.reason}: {error.body}", flush=True)


def main():
    kubeconfig, directory = sys.argv[1:]
    config.load_kube_config(kubeconfig)
    core, storage = client.CoreV1Api(), client.StorageV1Api()
    while True:
        try:
            look(core, storage, directory)
        except Exception as error:  # The API server starts, or is briefly unavailable.
            print(error, flush=True)
        time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main()
