"""The rules of the kinds, on the real API server: every case of operator/api/tests/cel."""

import pytest
import yaml
from harness import GROUP, PLURALS, ROOT, Refused, Space, api, path_of

CASES = sorted((ROOT / "operator/api/tests/cel").glob("*.yaml"))


@pytest.fixture(scope="module")
def space(operator):
    space = Space().make()
    yield space
    space.delete()


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(space, case):
    expected = case.read_text().splitlines()[0].removeprefix("# expect: ")
    documents = [d for d in yaml.safe_load_all(case.read_text()) if d]
    said = None
    # A dry run runs every check without the operator; an update needs an existing object.
    if ".create." in case.name:
        said = refusal("POST", space, documents[0], dry=True)
    else:
        before = {**documents[0], "metadata": {**documents[0]["metadata"]}}
        before.setdefault("spec", {})["managementState"] = "Paused"
        after = {**documents[1], "spec": {**(documents[1].get("spec") or {}), "managementState": "Paused"}}
        assert refusal("POST", space, before) is None
        try:
            name = before["metadata"]["name"]
            plural = PLURALS[before["kind"]]
            if "status" in before:
                change = {"status": before["status"]}
                api.request("PATCH", path_of(GROUP, plural, space.name, name, "status"), change, "application/merge-patch+json")
            stored = api.request("GET", path_of(GROUP, plural, space.name, name))
            after["metadata"] = {**after["metadata"], "resourceVersion": stored["metadata"]["resourceVersion"]}
            said = refusal("PUT", space, after, dry=True)
            # A conflicting write in between: retry, because the test is about the spec.
            if said and "the object has been modified" in said:
                del after["metadata"]["resourceVersion"]
                after["metadata"]["resourceVersion"] = api.request("GET", path_of(GROUP, plural, space.name, name))["metadata"]["resourceVersion"]
                said = refusal("PUT", space, after, dry=True)
        finally:
            api.request("DELETE", path_of(GROUP, plural, space.name, name))
    if expected == "accepted":
        assert said is None
    elif ".invalid-by-schema." in case.name:
        assert said is not None
    else:
        assert said is not None and expected in said


def refusal(method, space, document, dry=False):
    """The server's message, or None if it accepts."""
    name = document["metadata"]["name"] if method == "PUT" else None
    path = path_of(GROUP, PLURALS[document["kind"]], space.name, name)
    try:
        api.request(method, path + "?fieldValidation=Strict" + ("&dryRun=All" if dry else ""), document)
    except Refused as refused:
        return refused.message
    return None
