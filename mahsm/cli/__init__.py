"""The `mahsm` command.

- `_main`        `main`: runs a command, and turns errors into exit codes
- `_commands`    the commands, and their help
- `_outcome`     what a command prints, and how it fails
- `_target`      a graph of yours, by `module:name` or `file.py:name`
- `_asking`      questions at a terminal, and keys from standard input
- `_configure`   `mahsm configure`: settings and credentials in files
- `_setup`       `mahsm setup`: a provider, its key and the default model
- `_models`      `mahsm models`: known models, with prices
- `_test`        `mahsm test`: one call of a model
- `_doctor`      `mahsm doctor`: what is installed and set up
- `_checks`      its checks; `_traces` that of Langfuse
- `_run`         `mahsm run`: something for each row of a file
- `_rows`        its rows, and the states that they become; `_estimate` its dry run; `_numbers` its numbers
- `_usage`       `mahsm usage`: what runs cost, by their records
- `_draw`        `mahsm draw`: a graph, drawn; `_drawing` draws it without a network
- `_completion`  `mahsm completion`: a script for your shell
- `_version`     `mahsm version`
- `_demo`        `mahsm demo`: documents by their relevance to a question
- `_ranking`     its state machine
- `_documents`   its documents: installed packages, or files of your own
- `_relevance`   the relevance of a document to a question: BM25
- `_reader`      the DSPy module that reads a document
- `_reference`   the page `docs/reference/cli.md`, made of the commands
"""

from mahsm.cli._main import main as main

__all__ = ["main"]
