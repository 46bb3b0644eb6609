"""The messages of the Open Inference Protocol over gRPC, of gRPC's health checks and of its reflection.

Written from their field numbers, and built when the program runs: no generated code, which would want one release of
protobuf, and no file of another project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_TYPES = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3

# Message → its fields: number, type, name. `*` repeats, `{}` maps a string to it, `?` is one of a choice; a type that
# is none of protobuf's own is a message of the package, with the prefix `enum:` an enum.
_PARAMETERS = "{}InferParameter parameters"
_INFERENCE = {
    "ServerLiveRequest": "", "ServerLiveResponse": "1 bool live",
    "ServerReadyRequest": "", "ServerReadyResponse": "1 bool ready",
    "ModelReadyRequest": "1 string name, 2 string version", "ModelReadyResponse": "1 bool ready",
    "ServerMetadataRequest": "", "ServerMetadataResponse": "1 string name, 2 string version, 3 *string extensions",
    "ModelMetadataRequest": "1 string name, 2 string version",
    "ModelMetadataResponse": "1 string name, 2 *string versions, 3 string platform, 4 *TensorMetadata inputs, "
    "5 *TensorMetadata outputs",
    "TensorMetadata": "1 string name, 2 string datatype, 3 *int64 shape",
    "InferParameter": "1 ?bool bool_param, 2 ?int64 int64_param, 3 ?string string_param, 4 ?double double_param, "
    "5 ?uint64 uint64_param",
    "InferTensorContents": "1 *bool bool_contents, 2 *int32 int_contents, 3 *int64 int64_contents, "
    "4 *uint32 uint_contents, 5 *uint64 uint64_contents, 6 *float fp32_contents, 7 *double fp64_contents, "
    "8 *bytes bytes_contents",
    "InferInputTensor": f"1 string name, 2 string datatype, 3 *int64 shape, 4 {_PARAMETERS}, "
    "5 InferTensorContents contents",
    "InferRequestedOutputTensor": f"1 string name, 2 {_PARAMETERS}",
    "ModelInferRequest": f"1 string model_name, 2 string model_version, 3 string id, 4 {_PARAMETERS}, "
    "5 *InferInputTensor inputs, 6 *InferRequestedOutputTensor outputs, 7 *bytes raw_input_contents",
    "InferOutputTensor": f"1 string name, 2 string datatype, 3 *int64 shape, 4 {_PARAMETERS}, "
    "5 InferTensorContents contents",
    "ModelInferResponse": f"1 string model_name, 2 string model_version, 3 string id, 4 {_PARAMETERS}, "
    "5 *InferOutputTensor outputs, 6 *bytes raw_output_contents",
    "ModelStreamInferResponse": "1 string error_message, 2 ModelInferResponse infer_response",
    "ModelConfigRequest": "1 string name, 2 string version", "ModelConfigResponse": "1 ModelConfig config",
    "ModelConfig": "1 string name, 2 string platform, 4 int32 max_batch_size, 5 *ModelInput input, "
    "6 *ModelOutput output, 13 ModelSequenceBatching sequence_batching, 17 string backend",
    "ModelInput": "1 string name, 2 enum:DataType data_type, 4 *int64 dims, 8 bool optional",
    "ModelOutput": "1 string name, 2 enum:DataType data_type, 3 *int64 dims",
    "ModelSequenceBatching": "1 uint64 max_sequence_idle_microseconds",
    "ModelStatisticsRequest": "1 string name, 2 string version",
    "ModelStatisticsResponse": "1 *ModelStatistics model_stats",
    "ModelStatistics": "1 string name, 2 string version, 3 uint64 last_inference, 4 uint64 inference_count, "
    "5 uint64 execution_count, 6 InferStatistics inference_stats, 7 *InferBatchStatistics batch_stats",
    "InferBatchStatistics": "1 uint64 batch_size, 2 StatisticDuration compute_input, "
    "3 StatisticDuration compute_infer, 4 StatisticDuration compute_output",
    "InferStatistics": "1 StatisticDuration success, 2 StatisticDuration fail, 3 StatisticDuration queue, "
    "4 StatisticDuration compute_input, 5 StatisticDuration compute_infer, 6 StatisticDuration compute_output, "
    "7 StatisticDuration cache_hit, 8 StatisticDuration cache_miss",
    "StatisticDuration": "1 uint64 count, 2 uint64 ns",
    "RepositoryIndexRequest": "1 string repository_name, 2 bool ready",
    "RepositoryIndexResponse": "1 *ModelIndex models",
    "ModelIndex": "1 string name, 2 string version, 3 string state, 4 string reason",
    "ModelRepositoryParameter": "1 ?bool bool_param, 2 ?int64 int64_param, 3 ?string string_param, "
    "4 ?bytes bytes_param",
    "RepositoryModelLoadRequest": "1 string repository_name, 2 string model_name, "
    "3 {}ModelRepositoryParameter parameters",
    "RepositoryModelLoadResponse": "",
}  # fmt: skip
_DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
)  # fmt: skip
_HEALTH = {"HealthCheckRequest": "1 string service", "HealthCheckResponse": "1 enum:ServingStatus status"}
_REFLECTED = {
    "ServerReflectionRequest": "1 string host, 3 ?string file_by_filename, 4 ?string file_containing_symbol, "
    "5 ?ExtensionRequest file_containing_extension, 6 ?string all_extension_numbers_of_type, 7 ?string list_services",
    "ExtensionRequest": "1 string containing_type, 2 int32 extension_number",
    "ServerReflectionResponse": "1 string valid_host, 2 ServerReflectionRequest original_request, "
    "4 ?FileDescriptorResponse file_descriptor_response, 6 ?ListServiceResponse list_services_response, "
    "7 ?ErrorResponse error_response",
    "FileDescriptorResponse": "1 *bytes file_descriptor_proto",
    "ListServiceResponse": "1 *ServiceResponse service",
    "ServiceResponse": "1 string name",
    "ErrorResponse": "1 int32 error_code, 2 string error_message",
}
_CALLS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
)  # fmt: skip
_STREAM = ("ModelStreamInfer", "ModelInferRequest", "ModelStreamInferResponse")


class Messages:
    """The classes of all messages by full name, and the files that describe them, for reflection."""

    def __init__(self) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        self.services = (INFERENCE, HEALTH, *REFLECTION)
        calls = [(name, f"{name}Request", f"{name}Response", False) for name in _CALLS]
        self._add("inference", _INFERENCE, {"DataType": _DATA_TYPES}, INFERENCE, [*calls, (*_STREAM, True)])
        statuses = {"ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")}
        asks, answers = _HEALTH
        checks = [(name, asks, answers, False) for name in ("Check", "Watch")]
        self._add("grpc.health.v1", _HEALTH, statuses, HEALTH, checks)
        for service in REFLECTION:
            call = ("ServerReflectionInfo", "ServerReflectionRequest", "ServerReflectionResponse", True)
            self._add(service.rpartition(".")[0], _REFLECTED, {}, service, [call])

    def named(self, name: str) -> Any:
        """Returns the class of a message of the package `inference`, or of one with its full name."""
        full = name if "." in name else f"inference.{name}"
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full))

    def _add(
        self,
        package: str,
        messages: Mapping[str, str],
        enums: Mapping[str, tuple[str, ...]],
        service: str,
        calls: list[tuple[str, str, str, bool]],
    ) -> None:
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        for name, values in enums.items():
            enum = file.enum_type.add(name=name)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        for name, fields in messages.items():
            _describe(file.message_type.add(name=name), package, fields)
        described = file.service.add(name=service.rpartition(".")[2])
        for name, asks, answers, streams in calls:
            described.method.add(
                name=name,
                input_type=f".{package}.{asks}",
                output_type=f".{package}.{answers}",
                client_streaming=streams,
                server_streaming=streams or name == "Watch",
            )
        self.pool.Add(file)


def _describe(message: Any, package: str, fields: str) -> None:
    for field in filter(None, fields.split(", ")):
        number, kind, name = field.split()
        mark = next((mark for mark in ("*", "{}", "?") if kind.startswith(mark)), "")
        kind = kind.removeprefix(mark)
        if mark == "{}":
            entry = message.nested_type.add(name=f"{name.title()}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=_OPTIONAL, type=_TYPES["string"])
            entry.field.add(name="value", number=2, label=_OPTIONAL, type=_MESSAGE, type_name=f".{package}.{kind}")
            kind = f"{message.name}.{entry.name}"
        one = message.field.add(name=name, number=int(number), label=_REPEATED if mark in ("*", "{}") else _OPTIONAL)
        if kind in _TYPES:
            one.type = _TYPES[kind]
        else:
            one.type = _ENUM if kind.startswith("enum:") else _MESSAGE
            one.type_name = f".{package}.{kind.removeprefix('enum:')}"
        if mark == "?":
            if not message.oneof_decl:
                message.oneof_decl.add(name="choice")
            one.oneof_index = 0
