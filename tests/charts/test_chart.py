"""What the chart renders, value by value."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/ropewalk"
HELM = os.environ["HELM"]


def helm(*arguments):
    return subprocess.run([HELM, *arguments], capture_output=True, text=True)


def render(*values):
    done = helm("template", "ropewalk", str(CHART), "--namespace", "ropewalk-system", *values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


def rules_of(roles):
    return [rule for role in roles for rule in role["rules"]]


def refused(*values):
    done = helm("template", "ropewalk", str(CHART), *values)
    return done.stderr if done.returncode else None


def test_it_lints():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "typo",
    [
        "replicas=2",
        "image.repo=x",
        "broker.image.pullPolicy=Always",
        "watchNamespace=a",
        "crds.instal=false",
        "resources.request.cpu=1",
        "monitoring.podMonitor.enable=true",
        "scaling.extraTargets[0].group=argoproj.io",
    ],
)
def test_a_typo_in_a_value_is_refused(typo):
    assert refused("--set", typo), typo


@pytest.mark.parametrize("value", ["replicaCount=many", "watchNamespaces[0]=Upper", "config.logFormat=xml", "image.digest=abc"])
def test_a_value_that_cannot_be_is_refused(value):
    assert refused("--set", value), value


def test_every_value_is_in_the_schema_and_the_other_way_round():
    import json

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(where, schema, values):
        if "properties" not in schema or not isinstance(values, dict):
            return
        assert schema.get("additionalProperties") is False, where
        optional = {"global", "claims"}
        assert set(schema["properties"]) - optional <= set(values) | optional, where
        for name, value in values.items():
            assert name in schema["properties"], f"{where}.{name}"
            compare(f"{where}.{name}", schema["properties"][name], value)

    compare("values", schema, values)


def test_the_kinds_are_kept_when_the_release_goes():
    definitions = of_kind(render(), "CustomResourceDefinition")
    assert {d["metadata"]["name"] for d in definitions} == {"queues.ropewalk.dev", "brokerclusters.ropewalk.dev"}
    for definition in definitions:
        assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        source = yaml.safe_load((ROOT / f"crds/{definition['metadata']['name']}.yaml").read_text())
        assert definition["spec"] == source["spec"]
    assert not of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition")


def test_all_namespaces_take_a_cluster_role_and_some_take_roles_there_only():
    everything = render()
    assert len(of_kind(everything, "ClusterRoleBinding")) == 1
    some = render("--set", "watchNamespaces={shop,bank}")
    assert not of_kind(some, "ClusterRoleBinding")
    roles = [r for r in of_kind(some, "Role") if not r["metadata"]["name"].endswith("-lease")]
    assert {r["metadata"]["namespace"] for r in roles} == {"shop", "bank"}
    bindings = [r for r in of_kind(some, "RoleBinding") if not r["metadata"]["name"].endswith("-lease")]
    assert {b["metadata"]["namespace"] for b in bindings} == {"shop", "bank"}
    for binding in bindings:
        assert binding["subjects"][0]["namespace"] == "ropewalk-system"
    cluster_wide = [r for r in of_kind(everything, "ClusterRole") if not r["metadata"]["name"].endswith(("-view", "-edit"))]
    assert rules_of(cluster_wide) == rules_of(roles[:1])
    container = of_kind(some, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "ROPEWALK_WATCH_NAMESPACES", "value": "shop,bank"} in container["env"]


def lease_name(release, *values):
    done = helm("template", release, str(CHART), "--namespace", "ropewalk-system", *values)
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    container = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    return next(e["value"] for e in container["env"] if e["name"] == "ROPEWALK_LEASE_NAME")


def test_releases_and_sets_of_namespaces_do_not_share_a_lease():
    names = [
        lease_name("ropewalk"),
        lease_name("second"),
        lease_name("ropewalk", "--set", "watchNamespaces={shop}"),
        lease_name("ropewalk", "--set", "watchNamespaces={shop,bank}"),
    ]
    assert len(set(names)) == len(names), names
    assert lease_name("ropewalk", "--set", "watchNamespaces={bank,shop}") == names[3]
    assert all(len(name) <= 63 for name in names)


def test_an_upgrade_leaves_no_two_operators_at_work():
    """Without namespaces the Lease keeps its name; if the name changes, the old operator ends first."""
    assert lease_name("ropewalk") == "ropewalk-operator"
    strategy = of_kind(render(), "Deployment")[0]["spec"]["strategy"]
    assert strategy == {"type": "Recreate", "rollingUpdate": None}
    text = (ROOT / "charts/install.yaml").read_text()
    plain = of_kind([o for o in yaml.safe_load_all(text) if o], "Deployment")[0]
    assert plain["spec"]["strategy"] == strategy
    assert {"name": "ROPEWALK_LEASE_NAME", "value": "ropewalk-operator"} in plain["spec"]["template"]["spec"]["containers"][0]["env"]


def test_rights_are_few():
    rules = rules_of(of_kind(render(), "ClusterRole") + of_kind(render(), "Role"))
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], rule
        if "secrets" in rule["resources"]:
            assert not {"list", "watch", "deletecollection"} & set(rule["verbs"]), rule
        for resource in ("pods/exec", "roles", "rolebindings", "clusterroles", "serviceaccounts/token", "nodes"):
            assert resource not in rule["resources"], rule


def test_nothing_but_volumes_can_be_deleted():
    rules = rules_of(of_kind(render(), "ClusterRole") + of_kind(render(), "Role"))
    own = [rule for rule in rules if not (rule["apiGroups"] == ["ropewalk.dev"] and "deletecollection" in rule["verbs"])]
    assert [rule["resources"] for rule in own if "delete" in rule["verbs"]] == [["persistentvolumeclaims"]]


def environment(objects):
    container = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_what_a_cluster_made_for_a_queue_looks_like_is_a_value():
    import json

    made = lambda *values: json.loads(environment(render(*values))["ROPEWALK_DEFAULT_CLUSTER"])
    assert made() == {}
    assert made("--set", "defaultCluster.spec.storage.storageClassName=fast") == {"storage": {"storageClassName": "fast"}}
    secrets = "broker.imagePullSecrets[0].name=registry"
    assert made("--set", secrets) == {"podTemplate": {"imagePullSecrets": [{"name": "registry"}]}}
    both = made("--set", secrets, "--set", "defaultCluster.spec.podTemplate.priorityClassName=high")
    assert both["podTemplate"] == {"imagePullSecrets": [{"name": "registry"}], "priorityClassName": "high"}


def test_the_image_of_brokers_can_be_a_digest():
    digest = "sha256:" + "0" * 64
    image = environment(render("--set", f"broker.image.digest={digest}"))["ROPEWALK_BROKER_IMAGE"]
    assert image.endswith(f"@{digest}")


@pytest.mark.parametrize("earlier", sorted((ROOT / "tests/charts/earlier-values").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_upgrade_that_reuses_the_values_of_an_earlier_release_renders_the_same(earlier, tmp_path):
    """`helm upgrade --reuse-values` replaces the chart's values with those of the previous release."""
    chart = shutil.copytree(CHART, tmp_path / "ropewalk")
    shutil.copy(earlier, chart / "values.yaml")
    done = helm("template", "ropewalk", str(chart), "--namespace", "ropewalk-system")
    assert done.returncode == 0, done.stderr
    assert [o for o in yaml.safe_load_all(done.stdout) if o] == render()
    # And with the values that such a user is likely to have set.
    values = "watchNamespaces={shop},rbac.aggregateClusterRoles=false,broker.image.tag=v1"
    done = helm("template", "ropewalk", str(chart), "--namespace", "ropewalk-system", "--set", values)
    assert done.returncode == 0, done.stderr
    assert [o for o in yaml.safe_load_all(done.stdout) if o] == render("--set", values)


def test_the_operators_user_can_be_left_to_the_platform():
    values = "podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null"
    context = of_kind(render("--set", values), "Deployment")[0]["spec"]["template"]["spec"]["securityContext"]
    assert "runAsUser" not in context and "runAsGroup" not in context and context["runAsNonRoot"]


def test_the_admin_port_is_for_the_operator_alone_where_a_policy_is_asked_for():
    assert not of_kind(render(), "NetworkPolicy")
    assert "watchNamespaces" in refused("--set", "networkPolicy.enabled=true")
    objects = render("--set", "networkPolicy.enabled=true,watchNamespaces={shop}")
    (policy,) = of_kind(objects, "NetworkPolicy")
    assert policy["metadata"]["namespace"] == "shop"
    ports = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}
    assert ports[9092] is None
    (peer,) = ports[9644]
    pod = of_kind(objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= pod.items()


def test_an_administrator_of_one_namespace_can_install_it_there():
    """Nothing at cluster scope, and no permission that a namespace administrator lacks."""
    values = "watchNamespaces={team-a},crds.install=false,rbac.aggregateClusterRoles=false,rbac.keda=false"
    objects = render("--set", values)
    kinds = {o["kind"] for o in objects}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}, kinds
    groups = {group for rule in rules_of(of_kind(objects, "Role")) for group in rule["apiGroups"]}
    assert "keda.sh" not in groups and "apiextensions.k8s.io" not in groups


def test_a_custom_target_gets_the_right_to_its_scale():
    objects = render("--set", "scaling.extraTargets[0].apiGroup=argoproj.io,scaling.extraTargets[0].resource=rollouts")
    rules = rules_of(of_kind(objects, "ClusterRole"))
    assert {"apiGroups": ["argoproj.io"], "resources": ["rollouts/scale"], "verbs": ["get", "update"]} in rules


def test_pods_meet_the_restricted_profile():
    pods = [o["spec"]["template"]["spec"] for o in of_kind(render(), "Deployment")]
    pods += [o["spec"] for o in of_kind(render(), "Pod")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]


def test_the_selector_finds_the_operator_and_nothing_else():
    objects = render()
    selector = of_kind(objects, "Deployment")[0]["spec"]["selector"]["matchLabels"]
    assert "app.kubernetes.io/version" not in selector
    for pod in of_kind(objects, "Pod"):
        assert not selector.items() <= pod["metadata"]["labels"].items()


def test_a_digest_wins_over_a_tag():
    digest = "sha256:" + "a" * 64
    container = of_kind(render("--set", f"image.digest={digest},image.tag=v1"), "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].endswith("@" + digest)


def test_what_is_optional_is_off():
    kinds = {o["kind"] for o in render()}
    assert not {"PodDisruptionBudget", "PodMonitor"} & kinds
    on = render("--set", "podDisruptionBudget.enabled=true,monitoring.podMonitor.enabled=true", "--api-versions", "monitoring.coreos.com/v1")
    assert {"PodDisruptionBudget", "PodMonitor"} <= {o["kind"] for o in on}


def test_the_version_is_the_workspace_s():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in cargo
    assert chart["version"] == chart["appVersion"]


def test_plain_manifests_need_no_helm():
    text = (ROOT / "charts/install.yaml").read_text()
    assert "helm" not in text.lower().replace("charts/ropewalk", "")
    objects = [o for o in yaml.safe_load_all(text) if o]
    assert objects[0]["kind"] == "Namespace"
    assert {o["kind"] for o in objects} >= {"CustomResourceDefinition", "Deployment", "ClusterRole", "ServiceAccount"}
