"""Every setting with its name, default, unit, range and a one-line description.

Sources: TOML file, environment (`SHOAL_<NAME>`), flag (`--<name>`); later ones override earlier
ones. Nothing else in Shoal reads the environment, and settings do not change after startup.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shoal.errors import ConfigError
from shoal.protocol.messages import AdapterSource, EngineConfig, ModelSource

Api = Literal["openai", "responses", "anthropic", "tgi", "ollama"]
"""APIs that generate text."""
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
SECRETS = frozenset({"api_keys", "admin_keys"})
"""Settings whose values are never shown, and never taken from the command line."""
SECRET_VARIABLES = frozenset(
    {"SHOAL_API_KEYS", "SHOAL_ADMIN_KEYS", "SHOAL_API_KEY", "OPENAI_API_KEY"}
)
"""Variables that hold keys, which no child process needs."""
OF_CLIENTS = frozenset({"SHOAL_BASE_URL", "SHOAL_API_KEY"})
"""Variables of the SDK and of the commands that call a server."""
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
"""Of the variables that Kubernetes puts into every container beside a Service whose name begins
with "shoal"."""
_ENGINE = EngineConfig(models=())
"""The engine's defaults are defined in `protocol/messages.py`."""


class _Environment(EnvSettingsSource):
    """SHOAL_<NAME>, but for service links: SHOAL_PORT=tcp://... is no port."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        return {name: value for name, value in found.items() if not _is_service_link(value)}


class Settings(BaseSettings):
    """All settings of `shoal serve`, flat, with the same names in file, environment and flags."""

    model_config = SettingsConfigDict(
        env_prefix="SHOAL_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    # --- address and access -------------------------------------------------------------------
    host: str = Field("127.0.0.1", description="Address to listen on; others need API keys.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 picks a free one.")
    api_keys: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        repr=False,
        description="Accepted keys, each KEY, NAME:KEY or NAME:sha256:HEX; the name is the tenant. "
        "Not as a flag: every user of the machine can see those.",
    )
    keys_file: Path | None = Field(
        None,
        description="TOML file of keys with roles, rights and limits, see `shoal keys`; read again "
        "at SIGHUP and /admin/keys/reload.",
    )
    tenant_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="Header in which keys of role gateway name the user they call for.",
    )
    admin_keys: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        repr=False,
        description="Keys of the /admin routes, in the same forms, no flag either; empty = there "
        "are none.",
    )
    allow_unauthenticated: bool = Field(
        False, description="Serve without keys on an address that others can reach."
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Origins browsers may call from; empty = none."
    )
    apis: Annotated[list[Api], NoDecode] = Field(
        default_factory=lambda: list(get_args(Api)),
        description="APIs that generate text, of openai (completions and chat), responses, "
        "anthropic, tgi, ollama; unset = all.",
    )
    docs: bool = Field(True, description="Serve /docs and /openapi.json.")
    page: bool = Field(True, description="Serve the playground, a page for browsers at /.")

    # --- models -------------------------------------------------------------------------------
    models: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Model folders or GGUF files, each PATH or NAME=PATH, with aliases "
        "NAME,ALIAS=PATH (not in the environment, where commas separate models); a name alone is "
        "looked for where models_dir says. Empty = every model that is there.",
    )
    models_dir: Path | None = Field(
        None,
        description="Folder of models; unset = ./models, and then those that come with Shoal or "
        "were pulled. Of two of one name the first is meant.",
    )
    adapters: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="LoRA adapter folders of peft, each PATH or NAME=PATH, with @MODEL behind it "
        "to name the base.",
    )
    default_model: str | None = Field(
        None,
        description="Model used when a request names none; unset = the only one, and of several a "
        "request must name its own. Only of models that can do what is asked: write text, or "
        "make embeddings.",
    )
    max_model_len: int = Field(
        _ENGINE.max_model_len,
        ge=0,
        description="Upper bound on context tokens; 0 = each model's own.",
    )

    # --- engine -------------------------------------------------------------------------------
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models run.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of weights; auto = what is fast and exact here."
    )
    quantize: Literal["none", "int8", "int4"] = Field(
        "none",
        description="int8 or int4 = weights as integers with a scale per 32 of them, native "
        "kernels only: faster, less memory, slightly (int8: hardly) worse text.",
    )
    kernels: Literal["auto", "native", "torch"] = Field(
        "auto", description="Kernels used on a CPU; auto = native if built, else PyTorch."
    )
    threads: int = Field(
        _ENGINE.num_threads, ge=0, le=256, description="Compute threads; 0 = by usable cores."
    )
    kv_cache_bytes: int = Field(
        _ENGINE.kv_cache_bytes,
        ge=1 << 20,
        description="Bytes for the KV caches of all models together; taken on use.",
    )
    kv_cache_dtype: Literal["auto", "int8"] = Field(
        "auto",
        description="int8 = keys and values as 8-bit numbers, native kernels only: nearly twice "
        "the context in the same memory, slightly different text.",
    )
    max_batch_size: int = Field(
        _ENGINE.max_batch_size, ge=1, le=1024, description="Maximum sequences in one step."
    )
    token_budget: int = Field(
        _ENGINE.token_budget,
        ge=16,
        le=65536,
        description="Maximum tokens computed in one step; bounds a step's time.",
    )
    prefix_cache: bool = Field(
        _ENGINE.prefix_cache, description="Reuse KV blocks of shared prompt prefixes."
    )
    drafts: bool = Field(
        _ENGINE.drafts,
        description="Guess repeated tokens where few sequences run, and compute several in one "
        "step; changes speed, no text.",
    )
    max_preemptions: int = Field(
        _ENGINE.max_preemptions,
        ge=0,
        description="Times a sequence may be preempted before it fails.",
    )

    # --- limits on requests -------------------------------------------------------------------
    max_body_bytes: int = Field(2 << 20, ge=1024, description="Largest request body, bytes.")
    max_n: int = Field(16, ge=1, description="Largest n and best_of.")
    max_batch_prompts: int = Field(256, ge=1, description="Most prompts in one request.")
    max_sequences: int = Field(512, ge=1, description="Most prompts x n in one request.")
    max_logprobs: int = Field(20, ge=0, le=100, description="Most alternatives per token.")
    max_trace_tokens: int = Field(
        1024, ge=1, description="Most tokens that a request with a trace may generate."
    )
    max_messages: int = Field(1024, ge=1, description="Most chat messages in one request.")
    request_timeout: float = Field(
        600.0, gt=0, description="Seconds after which any request is ended."
    )

    # --- queue --------------------------------------------------------------------------------
    max_queue: int = Field(
        256, ge=0, description="Sequences that may wait beyond a full batch, per model."
    )
    max_queue_tokens: int = Field(
        262_144, ge=1, description="Prompt tokens that may wait, per model."
    )
    max_queue_wait: float = Field(
        10.0,
        gt=0,
        description="Seconds; a request that is expected to wait longer for its turn is refused, "
        "with 503 and Retry-After.",
    )
    tenant_max_queue: int = Field(
        0,
        ge=0,
        description="Sequences one tenant may have in flight per model; 0 = its share while others "
        "have some too.",
    )

    # --- cost ---------------------------------------------------------------------------------
    cost_per_cpu_hour: float | None = Field(
        None, ge=0, description="Price of an hour of one core, for usage_cost; unset = no amounts."
    )
    currency: str = Field("USD", min_length=1, max_length=8, description="Of cost_per_cpu_hour.")
    watts_per_core: float = Field(
        4.0,
        gt=0,
        description="Power of a busy core, for usage_cost where the machine does not tell (RAPL).",
    )

    # --- streams and connections --------------------------------------------------------------
    keepalive_interval: float = Field(
        10.0, ge=0, description="Seconds of silence before a ping comment; 0 = off."
    )
    stream_buffer_chunks: int = Field(
        256, ge=1, description="Chunks buffered for a slow client before they are merged."
    )
    stream_stall_timeout: float = Field(
        60.0,
        gt=0,
        description="Seconds in which the reader of an answer, streamed or not, takes nothing "
        "before it is cancelled.",
    )
    idle_keepalive: int = Field(75, ge=1, description="Seconds an idle connection stays open.")
    max_connections: int = Field(
        1024,
        ge=1,
        description="Most open connections, as far as the limit of open files allows; for one more "
        "an idle one is closed.",
    )
    max_url_bytes: int = Field(8 << 10, ge=256, description="Longest URL, bytes.")
    max_header_bytes: int = Field(
        32 << 10, ge=1024, description="Largest headers of a request, bytes in all."
    )
    max_headers: int = Field(100, ge=10, description="Most header lines of a request.")
    header_timeout: float = Field(
        10.0, gt=0, description="Seconds in which the headers of a request must come."
    )
    body_timeout: float = Field(
        30.0, gt=0, description="Seconds in which the body must come after them."
    )
    socket_send_buffer: int = Field(
        32 << 10,
        ge=4096,
        description="Bytes the kernel may hold for a slow reader (Linux takes twice as many).",
    )
    probe_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Second port for /livez, /readyz, /health and /metrics only, with connections "
        "of its own; unset = none.",
    )
    max_memory_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Part of the memory limit (of the container, else of the machine) above which "
        "new requests get 503, until it is 0.05 lower; 1 = never.",
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds to wait for running requests at shutdown."
    )
    shutdown_delay: float = Field(
        5.0,
        ge=0,
        description="Seconds after SIGTERM in which the server still answers, with 503, so that "
        "load balancers see it go; not after Ctrl-C.",
    )

    # --- metrics and logs -----------------------------------------------------------------------
    tenant_metrics: bool = Field(
        False, description="Count requests and tokens by tenant: the first 50, then as other."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json lines, text, or text only on a terminal (auto)."
    )

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Environment variables hold lists as comma-separated text."""
        for name in ("api_keys", "admin_keys", "apis", "cors_origins", "models", "adapters"):
            if isinstance(value := values.get(name), str):
                values[name] = [part.strip() for part in value.split(",") if part.strip()]
        return values

    @model_validator(mode="after")
    def _require_auth_beyond_loopback(self) -> Self:
        if not (self.host in LOOPBACK_HOSTS or self.has_keys or self.allow_unauthenticated):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set keys_file or api_keys, "
                "or allow_unauthenticated to serve anyone"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = _Environment(settings_cls)
        return init_settings, environment, TomlConfigSettingsSource(settings_cls)

    @property
    def has_keys(self) -> bool:
        """Must callers send a key?"""
        return bool(self.api_keys) or self.keys_file is not None


def load_settings(config_file: Path | None = None, **flags: Any) -> Settings:
    """Settings from file, environment and flags. Without `config_file`, ./shoal.toml is read
    if it exists. Raises ConfigError for a missing file, pydantic.ValidationError for bad values."""
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"config file {config_file} does not exist")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config_file or Path("shoal.toml"))

    return FileSettings(**flags)


def environment_remarks(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What in the environment looks like a setting of ours and is none, one line each."""
    remarks = []
    for given, value in sorted(environ.items()):
        name = given.upper()
        if not name.startswith("SHOAL_"):
            continue
        setting = name.removeprefix("SHOAL_").lower()
        if setting in Settings.model_fields:
            if _is_service_link(value):
                remarks.append(
                    f"{name}={value[:100]} is ignored: it comes from Kubernetes, because a Service "
                    "has that name; enableServiceLinks: false in the pod leaves it out"
                )
        elif not (name in OF_CLIENTS or _is_service_link(value) or _SERVICE_LINK_NAME.search(name)):
            near = difflib.get_close_matches(setting, Settings.model_fields, n=1)
            hint = f": did you mean SHOAL_{near[0].upper()}?" if near else ""
            remarks.append(f"{name} is no setting and is ignored{hint}")
    return remarks


def forget_secrets() -> None:
    """Takes keys out of the environment: child processes inherit what is left."""
    for name in [name for name in os.environ if name.upper() in SECRET_VARIABLES]:
        del os.environ[name]


def _is_service_link(value: object) -> bool:
    return isinstance(value, str) and _SERVICE_LINK.match(value) is not None


def engine_config(
    settings: Settings,
    models: tuple[ModelSource, ...],
    adapters: tuple[AdapterSource, ...] = (),
) -> EngineConfig:
    """The part of the settings that the engine process needs."""
    return EngineConfig(
        models=models,
        adapters=adapters,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        kernels=settings.kernels,
        num_threads=settings.threads,
        kv_cache_bytes=settings.kv_cache_bytes,
        kv_cache_dtype=settings.kv_cache_dtype,
        max_batch_size=settings.max_batch_size,
        token_budget=settings.token_budget,
        max_model_len=settings.max_model_len,
        prefix_cache=settings.prefix_cache,
        drafts=settings.drafts,
        max_preemptions=settings.max_preemptions,
    )
