"""One word for what the Kubernetes API says of a service: every row of the table."""

import pytest
from knative_objects import ksvc, revision
from runnerwsgi_knative import state

OLD, NEW = "runner-00001", "runner-00002"
ACTIVE = revision(OLD)
IDLE = revision(OLD, conditions={"Active": ("False", "NoTraffic", "The target gets no traffic.")})
QUEUED = revision(OLD, conditions={"Active": ("Unknown", "Queued", "Requests are buffered.")})
TIMED_OUT = revision(OLD, conditions={"Active": ("False", "TimedOut", "It could not start.")})
CRASHED = revision(
    OLD,
    conditions={
        "ContainerHealthy": ("False", "ExitCode1", "Container failed with: no token"),
        "Ready": ("False", "ExitCode1", "Container failed with: no token"),
    },
)
NO_IMAGE = revision(
    OLD,
    conditions={
        "ResourcesAvailable": ("False", "ImagePullBackOff", "Back-off pulling image"),
        "Ready": ("False", "ImagePullBackOff", "Back-off pulling image"),
    },
)
NO_ROOM = revision(
    OLD,
    conditions={
        "ResourcesAvailable": ("False", "Unschedulable", "0/3 nodes are available"),
        "Ready": ("False", "Unschedulable", "0/3 nodes are available"),
    },
)
FRESH = revision(OLD, conditions={"Active": None, "Ready": None})

FAILED = ("False", "RevisionFailed", f'Revision "{NEW}" failed with message: no token.')
DEPLOYING = ("Unknown", "Deploying", "")
DEGRADED = {"ConfigurationsReady": FAILED, "Ready": FAILED}
HALVES = [
    {"revisionName": OLD, "percent": 50},
    {"revisionName": NEW, "percent": 50, "latestRevision": True},
]
TAGGED = [
    {"revisionName": OLD, "percent": 100},
    {"revisionName": NEW, "tag": "next", "url": "http://next-runner.extensions.example.com"},
]


def found(service, *revisions, tag=None):
    by_name = {one["metadata"]["name"]: one for one in revisions}
    return state.of(service, by_name, tag)


@pytest.mark.parametrize(
    ("service", "revisions", "word", "serves"),
    [
        pytest.param(ksvc(), [ACTIVE], "active", True, id="pods run"),
        pytest.param(ksvc(), [IDLE], "idle", True, id="scaled to zero"),
        pytest.param(ksvc(), [QUEUED], "activating", True, id="a pod is being started"),
        pytest.param(ksvc(), [TIMED_OUT], "failing", False, id="no pod came up in time"),
        pytest.param(ksvc(), [CRASHED], "failing", False, id="its container ends at once"),
        pytest.param(ksvc(), [NO_IMAGE], "failing", False, id="its image cannot be had"),
        pytest.param(ksvc(), [NO_ROOM], "failing", False, id="no node has room for it"),
        pytest.param(
            ksvc(conditions=DEGRADED), [CRASHED], "failing", False, id="what serves has crashed"
        ),
        pytest.param(
            ksvc(conditions=DEGRADED, created=NEW, ready=OLD),
            [ACTIVE],
            "degraded",
            True,
            id="the new revision failed, the old one serves",
        ),
        pytest.param(
            ksvc(conditions=DEGRADED, created=NEW, ready=OLD),
            [IDLE],
            "degraded",
            True,
            id="the new revision failed, the old one is scaled to zero",
        ),
        pytest.param(
            ksvc(generation=2, observed=1),
            [ACTIVE],
            "reconciling",
            True,
            id="a change that no controller has seen",
        ),
        pytest.param(
            ksvc(conditions={"ConfigurationsReady": DEPLOYING, "Ready": DEPLOYING}, created=NEW),
            [ACTIVE],
            "reconciling",
            True,
            id="a new revision is being deployed",
        ),
        pytest.param(
            ksvc(conditions={"RoutesReady": ("Unknown", "IngressNotConfigured"), "Ready": None}),
            [ACTIVE],
            "reconciling",
            None,
            id="its route is being changed",
        ),
        pytest.param(
            ksvc(conditions={"RoutesReady": None, **DEGRADED}),
            [ACTIVE],
            "reconciling",
            None,
            id="a failed revision, and a route that nobody has told of",
        ),
        pytest.param(ksvc(status={}), [], "reconciling", False, id="seen by no controller yet"),
        pytest.param(
            ksvc(conditions={"RoutesReady": ("False", "RevisionMissing"), "Ready": "False"}),
            [ACTIVE],
            "down",
            False,
            id="no route",
        ),
        pytest.param(
            ksvc(
                generation=2,
                observed=1,
                conditions={"RoutesReady": ("False", "RevisionMissing"), "Ready": "False"},
            ),
            [],
            "down",
            False,
            id="no route, and a change that may make one",
        ),
        pytest.param(ksvc(), [], "unknown", None, id="revisions that nobody may read"),
        pytest.param(ksvc(), [FRESH], "unknown", None, id="a revision without conditions"),
        pytest.param(
            ksvc(),
            [revision(OLD, conditions={"Active": ("False", "NewWords")})],
            "unknown",
            None,
            id="a reason that we do not know",
        ),
    ],
)
def test_the_state_of_a_service(service, revisions, word, serves):
    told = found(service, *revisions)
    assert (told.word, told.serves) == (word, serves)
    assert told.detail


@pytest.mark.parametrize(
    ("kind", "word", "serves"),
    [
        ("unreachable", "unknown", None),
        ("unauthorized", "unknown", None),
        ("forbidden", "unknown", None),
        ("busy", "unknown", None),
        ("absent", "absent", False),
        ("not-installed", "not-installed", False),
    ],
)
def test_the_state_where_the_api_gives_no_service(kind, word, serves):
    assert state.unanswered(kind, "why") == state.State(word, serves, "why")


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        pytest.param(True, ("False", "NoTraffic"), "active", id="one runs, one is idle"),
        pytest.param(("Unknown", "Queued"), ("False", "NoTraffic"), "activating", id="one starts"),
        pytest.param(("False", "NoTraffic"), ("False", "NoTraffic"), "idle", id="both are idle"),
        pytest.param(True, ("False", "TimedOut"), "degraded", id="one runs, one cannot start"),
        pytest.param(("False", "TimedOut"), ("False", "TimedOut"), "failing", id="none can start"),
    ],
)
def test_of_several_revisions_with_traffic_one_that_can_serve_is_enough(first, second, word):
    revisions = (
        revision(OLD, conditions={"Active": first}),
        revision(NEW, conditions={"Active": second}),
    )
    assert found(ksvc(traffic=HALVES), *revisions).word == word


def test_a_revision_without_a_share_of_the_traffic_does_not_count():
    broken = revision(NEW, conditions={"Active": ("False", "TimedOut")})
    assert found(ksvc(traffic=TAGGED), IDLE, broken).word == "idle"


def test_with_a_tag_only_its_revision_counts():
    running = revision(NEW)
    assert found(ksvc(traffic=TAGGED), TIMED_OUT, running, tag="next").word == "active"
    gone = found(ksvc(traffic=TAGGED), ACTIVE, running, tag="last")
    assert (gone.word, gone.serves) == ("absent", False)
    assert "last" in gone.detail


def test_the_reason_is_the_cause_and_not_that_something_is_not_ready():
    assert "ImagePullBackOff" in found(ksvc(), NO_IMAGE).detail
    assert OLD in found(ksvc(), NO_IMAGE).detail
    told = found(ksvc(conditions=DEGRADED, created=NEW, ready=OLD), ACTIVE).detail
    assert "RevisionFailed" in told
    assert f"{OLD} serves" in told
