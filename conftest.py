"""Optional parts are skipped by the name of their extra; `--no-skips` lets nothing be skipped."""

import pytest
from extras import lacking


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="a skipped test has failed")


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector):
    if reason := lacking(collector.nodeid):
        where = (str(collector.path), 0, f"Skipped: {reason}")
        return pytest.CollectReport(collector.nodeid, "skipped", where, [])
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if reason := lacking(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=reason))


def _strict(config, report):
    """Turn a skip into a failure where none is allowed."""
    if config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skips forbids: {report.longrepr[-1]}"
    return report


@pytest.hookimpl(specname="pytest_make_collect_report", wrapper=True)
def pytest_strict_collect_report(collector):
    return _strict(collector.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return _strict(item.config, (yield))
