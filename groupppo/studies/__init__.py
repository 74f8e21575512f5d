"""One file, one study: what it asks, its parameters, tables, figures and section of the page. `shared/` is their code.

A module `NAME.py` of this package defines `STUDY`, a `groupppo.studies.shared.study.Study` of that name; nothing else
has to know of it. It imports torch and transformers inside its functions only: a page that shows a study needs neither.

    python -m groupppo.studies NAME --help
"""
