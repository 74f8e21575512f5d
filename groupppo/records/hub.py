"""What the Hugging Face hub publishes: a download, its errors with what to do about them, and chat templates.

What comes stays in the hub's cache (HF_HOME): files that came whole are not asked for again, and a commit that is there
whole needs no network.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from groupppo.errors import BadInput, ParamError
from groupppo.records.storage import room_for

Kind = Literal["model", "dataset"]


def download(repo: str, revision: str, *, kind: Kind, files: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """Give the folder of a repository's files at a revision; what the hub's cache holds is not asked for again.

    Args:
        repo: its name on the hub, such as Qwen/Qwen3-0.6B.
        revision: a commit, or a branch such as main.
        kind: "model" or "dataset".
        files: patterns of the files that are wanted; a star goes through folders.
        ignored: patterns of those that are not.

    Returns:
        A folder in the hub's cache that is named by the commit; its files are links to others in that cache.

    Raises:
        ParamError: of `repo`, whatever keeps the files away: a name or revision that the hub does not have, a licence
            that was not accepted, no network, a transfer that broke off.
        BadInput: the disk of the cache has no room.
    """
    import httpx
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    taken, left = [*files], [*ignored]
    try:
        with room_for(Path(constants.HF_HUB_CACHE)):
            return Path(
                snapshot_download(repo, revision=revision, repo_type=kind, allow_patterns=taken, ignore_patterns=left)
            )
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        said = str(error).strip() or type(error).__name__
        hint = f"{_hint(error, repo, revision, kind)} It says: {said.splitlines()[0]}"
        raise ParamError("repo", f"{repo}@{revision}", hint) from error


def _hint(error: Exception, repo: str, revision: str, kind: Kind) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    by_hand = f"hf download {repo} --revision {revision}{' --repo-type dataset' if kind == 'dataset' else ''}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or status == 403:
        return f"accept the licence of this {kind} on {page}, and set HF_TOKEN to a token of the account that did."
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"check the name: there is no {kind} at {page}, or it is private: then set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"name a commit or a branch of {page}/tree/main."
    if isinstance(error, HFValidationError):
        return "write owner/name, as on the hub."
    if constants.HF_HUB_OFFLINE:
        return (
            f"unset HF_HUB_OFFLINE, or fill the cache where there is a network (`{by_hand}`) and let HF_HOME name it; "
            f"{constants.HF_HUB_CACHE} does not hold all of it."
        )
    return (
        f"run the same command again: files that came whole are kept in {constants.HF_HUB_CACHE}. Where "
        f"{constants.ENDPOINT} cannot be reached, fill the cache elsewhere (`{by_hand}`) and let HF_HOME name it."
    )


def chat_template(folder: Path) -> str | None:
    """The text that conversations are written with, wherever a model's folder keeps it; None where there is none.

    It is chat_template.jinja, or else an entry of tokenizer_config.json: a text, or several with names, of which
    transformers takes the one called default unless tools are given. additional_chat_templates/ has never that one.
    """
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}.get("default")
    return template or None


def set_in_template(values: dict[str, bool | str], folder: Path) -> None:
    """Set variables of a folder's chat template, and leave one where there are several.

    Not everybody who reads the folder chooses among them as transformers does.

    Args:
        values: by variable; none leaves a single template as it is.
        folder: a model's, that may be changed.

    Raises:
        ParamError: the template does not read such a variable.
    """
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file():
        return  # the folder is refused for it
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    if not values and not isinstance(config.get("chat_template"), list):
        return
    template = chat_template(folder) or ""
    for name in values:
        if name not in template:
            raise ParamError("chat_template_set", name, "name a variable that the template reads.")
    head = "".join(f"{{%- set {name} = {json.dumps(value)} -%}}" for name, value in values.items())
    config.pop("chat_template", None)
    write_json(config_file, config)
    (folder / "chat_template.jinja").write_text(head + template, encoding="utf-8")


def require_timeless(tokenizer: Any, folder: Path) -> None:
    """Check that the chat template of a tokenizer, loaded from `folder`, does not tell the date.

    Raises:
        BadInput: it does, so that prompts would be others on another day.
    """
    asked: list[str] = []

    def strftime_now(date: str) -> str:  # in the place of transformers' own
        asked.append(date)
        return ""

    chat = [{"role": "user", "content": "7"}]
    tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, strftime_now=strftime_now)
    if asked:
        hint = "name the variable that it is kept in, such as date_string: 26 Jul 2024, in params.chat_template_set."
        raise BadInput(folder, "chat template", f"strftime_now({asked[0]!r})", f"prompts would change daily: {hint}")


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
