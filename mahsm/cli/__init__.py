"""The `mahsm` command.

- `_configure`  `mahsm configure`: settings and credentials in files
- `_demo`       `mahsm demo`: a state machine that ranks documents by their relevance to a question
- `_documents`  the documents: installed packages, or files of your own
- `_relevance`  the relevance of a document to a question: BM25
- `_reader`     the DSPy module that reads a document
"""

import argparse
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import mahsm
from mahsm.errors import MahsmError

__all__ = ["main"]


@contextmanager
def _traced() -> Generator[None, None, None]:
    """Trace the block to Langfuse if its keys are in the environment, and flush at the end."""
    if not os.environ.get("LANGFUSE_PUBLIC_KEY"):
        yield
        return
    from mahsm import tracing

    tracing.init()
    try:
        with tracing.span("mahsm demo"):
            yield
    finally:
        tracing.flush()
        tracing.off()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after `mahsm`; by default those of the process.

    Returns:
        The exit code: 0; 2 after an error, which one line on stderr explains; 130 after Ctrl+C.
    """
    parser = argparse.ArgumentParser(prog="mahsm", description="Special edges for LangGraph.")
    parser.add_argument("--version", action="version", version=f"mahsm {mahsm.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_demo(commands)
    _add_configure(commands)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0

    try:
        _run(options)
    except (MahsmError, OSError) as error:
        print(f"mahsm {options.command}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        # 128 + SIGINT, the exit code that shells use.
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "demo":
        from mahsm.cli._demo import demo

        with _traced():
            demo(options)
        return
    from mahsm.cli import _configure

    _configure.run(options)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo", help="rank documents by how well they answer a question, with a vmap and a reduce edge"
    )
    demo.add_argument(
        "--question", metavar="TEXT", help="default: which of them does token-bucket rate limiting?"
    )
    demo.add_argument(
        "--files",
        nargs="+",
        metavar="PATH",
        help="your own documents: files, folders, patterns such as 'docs/*.md'; default: the packages in "
        "this environment",
    )
    demo.add_argument(
        "--model",
        help="have this model read each document, such as openai/gpt-4o-mini; default: no model, BM25 scores",
    )
    demo.add_argument(
        "--api-base", metavar="URL", help="where the model is served, such as http://127.0.0.1:8000/v1"
    )
    demo.add_argument("--top", type=int, default=5, help="documents to show (default: 5)")
    demo.add_argument(
        "--max-concurrency", type=int, default=16, help="documents at the same time (default: 16)"
    )
    demo.add_argument("--graph", action="store_true", help="print the state machine too, as Mermaid")


def _add_configure(commands: Any) -> None:
    configure = commands.add_parser("configure", help="settings and credentials in the files of ~/.mahsm")
    actions = configure.add_subparsers(dest="action", metavar="action", required=True)
    get = actions.add_parser("get", help="print a setting; credentials are hidden")
    get.add_argument("key", help="such as models.default")
    put = actions.add_parser("set", help="write a setting; the value of a credential is read from stdin")
    put.add_argument("key", help="such as models.default or credentials.openai_api_key")
    put.add_argument("value", nargs="?", help="as in YAML; null removes the key; none for a credential")
    actions.add_parser("list", help="print all settings with where they are from; credentials are hidden")
    actions.add_parser("path", help="print the folder of the files")
    show = actions.add_parser("show", help="print a section, such as models; credentials are hidden")
    show.add_argument("key", metavar="section", help="such as models")
    migrate = actions.add_parser("migrate", help="copy settings and credentials of Ember into the files")
    migrate.add_argument("source", nargs="?", default="~/.ember", help="Ember's folder (default: ~/.ember)")
