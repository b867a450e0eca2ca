"""One page of metrics out of several."""

from __future__ import annotations

from isthmus.agent.metrics import merged

AGENT = "# HELP up Up.\n# TYPE up gauge\nup 1.0\n"


def test_the_metrics_of_one_application_stay_as_they_are() -> None:
    page = merged([AGENT], {"reviews": '# TYPE requests counter\nrequests{code="200"} 5 1700000000\n# EOF\n'})

    assert page == AGENT + '# TYPE requests counter\nrequests{code="200"} 5 1700000000\n'


def test_those_of_several_say_whose_they_are() -> None:
    """Equal names would be taken for one series; what an application says of itself is kept; a type is said once."""
    same = '# TYPE requests counter\nrequests 5\nrequests{code="200",} 4\nother{service="own"} 3\n'

    page = merged([AGENT], {"reviews": same, "ratings": same})

    assert page.splitlines()[3:] == [
        "# TYPE requests counter",
        'requests{service="reviews"} 5',
        'requests{code="200",service="reviews"} 4',
        'other{service="own"} 3',
        'requests{service="ratings"} 5',
        'requests{code="200",service="ratings"} 4',
        'other{service="own"} 3',
    ]
