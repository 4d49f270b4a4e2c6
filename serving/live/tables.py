"""The tables of the database: answers, labels, shadows, kept images, evaluations, as the newest migration leaves them.

Networks are named by :attr:`Deployment.key`, shortened where it does not fit; policies by :attr:`Plan.label`; moments are
seconds since 1970. A change here needs a file in :mod:`serving.live.migrations.versions`; a test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()

NETWORK_LENGTH = 200
"""Characters of a network's name, at most: databases limit what an index may hold."""


def _of_an_answer(network_indexed: bool) -> list[sa.Column[Any]]:
    """Columns of what was answered about an image: an own set for each table."""
    return [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Double, index=True, nullable=False),
        sa.Column("network", sa.String(NETWORK_LENGTH), index=network_indexed or None, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("predicted", sa.Integer, nullable=False),
        sa.Column("macs", sa.Double, nullable=False),
    ]


ANSWERS = sa.Table(
    "answers",
    METADATA,
    *_of_an_answer(network_indexed=False),
)
"""One row for each image that was answered, until its label may no longer come."""

LABELS = sa.Table(
    "labels",
    METADATA,
    *_of_an_answer(network_indexed=True),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("first", sa.Double, nullable=False, server_default="0"),
    sa.Column("changes", sa.Integer, nullable=False, server_default="0"),
)
"""One row for each label, with the answer it belongs to, when it first came and how often it was changed since."""

SHADOWS = sa.Table(
    "shadows",
    METADATA,
    *_of_an_answer(network_indexed=True),
)
"""What a shadow policy says of images that the active one answered under the same id."""

IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("expires", sa.Double, index=True, nullable=False),
    sa.Column("claimed_until", sa.Double, nullable=False, default=0.0),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary(2**32 - 1), nullable=False),
)
"""Pictures as they were sent, until they are evaluated or their time is over."""

EVALUATIONS = sa.Table(
    "evaluations",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Double, index=True, nullable=False),
    sa.Column("network", sa.String(NETWORK_LENGTH), index=True, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("policy_right", sa.Boolean, nullable=False),
    sa.Column("policy_macs", sa.Double, nullable=False),
    sa.Column("right", sa.Text, nullable=False),
    sa.Column("oracle_macs", sa.Double, nullable=False),
)
"""What every configuration makes of a labelled image."""
