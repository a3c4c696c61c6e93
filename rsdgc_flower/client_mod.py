"""The client's side: a mod that compresses what training changed before it is sent.

What an upload leaves out is kept in the context's state, as Flower keeps a node's state during a
run, and added to the next one. The state takes the model's size in float32, and Flower moves it
between the SuperNode and the app with each message.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from rsdgc.budget_compressor import CompressorState
from rsdgc.compression import Compression
from rsdgc.errors import RunError
from rsdgc.model_change import AnyArray, ChangeCompressor
from rsdgc_flower.records import ACCEPTED, RECORD, UPLOAD, is_train, pack, to_arrays

ARRAYS = "rsdgc.arrays"
"""Record of the context's state with ``residual``, ``velocity`` and ``ratios``."""
STATE = "rsdgc.state"
"""Record of the context's state with ``model``, ``step``, and the last upload with its number."""
_LAST = "last-upload"


class CompressionMod:
    """A Flower mod: sends the change of the model, compressed, instead of the model.

    ::

        app = ClientApp(mods=[CompressionMod(Compression("100x"))])

    The server's strategy must be a :class:`rsdgc_flower.DecodingStrategy`. Messages other than
    those for training pass unchanged.

    Parameters
    ----------
    compression : Compression, optional
        How much is sent, and in which form; 100× by default. A step is a round.

    Raises
    ------
    SettingError
        ``compression`` is something else.
    RunError
        While the app runs: the server does not decode uploads, or a reply has no model of the same
        names and shapes as the request.
    RsdgcError
        While the app runs: the compression does not fit the model, or the trained model holds NaN.
    """

    def __init__(self, compression: Compression | None = None) -> None:
        self.compression = Compression.checked(compression)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the app answer, and compress its answer."""
        if not is_train(message):
            return call_next(message, context)
        before = to_arrays(_model_of(message, "request"))
        accepted = _take_accepted(message)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        key, record = _only_arrays(reply, "reply")
        after = to_arrays(record)
        compressor = ChangeCompressor(before, self.compression, whole=_integers(after))
        last = _restore(compressor, context)
        if last.number > accepted:
            compressor.roll_back(last.payload)
        payload = compressor.compress(before, _as_in(before, after))
        upload = _Upload(max(last.number, accepted) + 1, payload)
        _keep(compressor, context, upload)
        reply.content[key] = pack(payload)
        reply.content[RECORD] = ConfigRecord({UPLOAD: upload.number})
        return reply


class _Upload:
    """An upload and its number; number 0 is none."""

    def __init__(self, number: int = 0, payload: bytes = b"") -> None:
        self.number = number
        self.payload = payload


def _as_in(request: dict[str, AnyArray], reply: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """Return the arrays of a reply with the dtypes of the request, with which both ends decode.

    They may differ: the server's mean of integers is of floating point.
    """
    shapes = [{name: array.shape for name, array in each.items()} for each in (request, reply)]
    if shapes[0] != shapes[1]:
        raise RunError(
            "the model of the reply is not that of the request: send the same names and shapes"
        )
    return {name: reply[name].astype(array.dtype) for name, array in request.items()}


def _integers(reply: dict[str, AnyArray]) -> list[str]:
    """Return the entries that are integers or flags in the app's model.

    The server's mean of them is of floating point, so from the second round on requests do not say.
    """
    return [name for name, array in reply.items() if array.dtype.kind != "f"]


def _model_of(message: Message, what: str) -> ArrayRecord:
    return _only_arrays(message, what)[1]


def _only_arrays(message: Message, what: str) -> tuple[str, ArrayRecord]:
    records = message.content.array_records
    if len(records) != 1:
        raise RunError(f"the {what} has {len(records)} records of arrays: send the model in one")
    return next(iter(records.items()))


def _take_accepted(message: Message) -> int:
    """Return the number of the last upload that the server decoded, and remove the record."""
    if RECORD not in message.content.config_records:
        raise RunError(
            "the server does not decode compressed uploads: wrap its strategy, as in "
            "DecodingStrategy(FedAvg())"
        )
    record = message.content.config_records[RECORD]
    del message.content[RECORD]
    return int(str(record[ACCEPTED]))


def _restore(compressor: ChangeCompressor, context: Context) -> _Upload:
    """Let the compressor continue from the context's state; return the last upload."""
    state = context.state.config_records.get(STATE)
    arrays = context.state.array_records.get(ARRAYS)
    if state is None or arrays is None:
        return _Upload()
    signature = compressor.compressor.spec.signature.hex()
    if state["model"] != signature:
        raise RunError(
            "the model of the request has other layers than that of an earlier round, whose rest "
            "waits at this node: train one model in a run, and another in a run of its own"
        )
    values = (arrays[name].numpy() for name in ("residual", "velocity", "ratios"))
    compressor.compressor.restore(CompressorState(int(str(state["step"])), *values))
    payload = state[_LAST]
    assert isinstance(payload, bytes)
    return _Upload(int(str(state[UPLOAD])), payload)


def _keep(compressor: ChangeCompressor, context: Context, upload: _Upload) -> None:
    state = compressor.compressor.state()
    arrays = {
        "residual": Array(state.residual),
        "velocity": Array(state.velocity),
        "ratios": Array(state.ratios),
    }
    context.state[ARRAYS] = ArrayRecord(arrays)
    context.state[STATE] = ConfigRecord(
        {
            "model": compressor.compressor.spec.signature.hex(),
            "step": state.step,
            UPLOAD: upload.number,
            _LAST: upload.payload,
        }
    )
