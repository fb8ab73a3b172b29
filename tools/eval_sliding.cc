// eval-sliding: what an artifact scores, from the artifact alone.
#include <ATen/Parallel.h>
#include <ATen/ops/zeros_like.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/live_line.h"
#include "common/base/loaded.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/lineage_json.h"
#include "common/evaluate/document_ttt.h"
#include "common/evaluate/evaluate.h"
#include "common/evaluate/generate.h"
#include "common/evaluate/memory.h"
#include "common/evaluate/prove.h"
#include "common/parallel/communicator.h"
#include "common/quantise/artifact.h"
#include "common/runtime/runtime.h"
#include "common/settings/method.h"
#include "common/tokens/case_ops.h"
#include "common/tokens/overlap.h"
#include "common/tokens/shard_format.h"
#include "common/tokens/split_text.h"
#include "common/tool/tool.h"

namespace fairway {
namespace {

constexpr int64_t kProofSamples = 8;  // targets that --prove looks into

struct Options {
  std::string artifact, out, expect, prove;
  double tolerance = -1;  // none given
  std::vector<std::string> prompts;
  int64_t tokens = -1, top_k = -1;  // of --generate alone, as are the next two; none given
  double temperature = -1, top_p = -1;
};

// The weights to look at, with what a record says of the file they came from.
struct Subject {
  std::string path, digest, identity;
  Json made_from;  // identities of what the file was made from, where it says so (an artifact does not)
  Kind kind;
  std::string program, program_digest;  // that made it, where it says so
  uint64_t bytes;
  NamedTensors parameters;
  double memory;  // estimated, for scoring without adapters and n-grams: the host's or, on a GPU, the GPU's
};

// Of everything that is to come.
void SayMemory(const Settings& settings, const Runtime& runtime, double memory) {
  runtime.CheckMemory(settings, memory);
  Log("estimate: memory %.2f GB%s", std::ceil(memory / 1e7) / 100, runtime.device != nullptr ? " of the GPU" : "");
}

// Reads the file, and takes its settings into `settings`; to score it on the device.
Subject Open(const std::string& path, Settings& settings, const Runtime& runtime) {
  InputFile file(path);
  const std::string name = file.path(), digest = Sha256Hex(file.bytes());
  const uint64_t bytes = file.bytes().size();
  const CheckpointReader weights = OpenWeights(std::move(file));
  weights.Expect({Kind::kWeights, Kind::kQuantised});
  settings.Adopt(weights.settings(), name);
  settings.CheckModel(name);
  double content = 0;
  for (const TensorInfo& info : weights.tensors()) content += info.bytes();
  const double memory = EstimateScoring(settings.ForEvaluation(), bytes, content, TorchDevice(runtime.device));
  runtime.CheckMemory(settings, memory);
  Json made_from = Json::array();
  for (const Lineage::Input& input : weights.lineage().inputs) made_from.push_back(input.identity);
  return {name, digest, weights.identity(), made_from, weights.kind(), weights.lineage().tool, weights.lineage().source_digest, bytes,
          LoadParameters(weights, settings), memory};
}

Score Plain(Engine& model, const ShardSet& val, const ByteTable& table, const Settings& settings, Communicator& communicator,
            BatchObserver* observer = nullptr) {
  Progress bar("plain evaluation", val.tokens() / settings.train_seq_len);
  return EvaluatePlain(
      model, val, table, settings, [&](const BatchDone& batch) { bar.Update(batch.windows_done); }, communicator, observer);
}

// The weights as an engine works on them; gradients where they will learn.
struct Model {
  NamedTensors parameters, gradients;
  std::unique_ptr<Engine> engine;
};

Score Sliding(const Model& model, const ShardSet& val, const ByteTable& table, const Settings& settings, Communicator& communicator,
              BatchObserver* observer, NgramMixture* mixture) {
  Progress bar("sliding evaluation", 100);
  const auto tell = [&](const BatchDone& batch) {
    bar.Update(100 * batch.windows_done / batch.windows, StringPrintf("bpb so far %.4f", batch.bits_per_byte));
    if (batch.batch % 50 != 0) return;
    LogProgress("  sliding_eval [%5.1f%%] %jd/%jd windows running_bpb=%.6f", 100.0 * batch.windows_done / batch.windows,
        batch.windows_done, batch.windows, batch.bits_per_byte);
  };
  if (settings.method == "kv_cache") return EvaluateCached(*model.engine, val, table, settings, tell, observer, mixture);
  if (settings.method == "ttt")
    return EvaluateAdapting(*model.engine, model.parameters, model.gradients, val, table, settings, tell, observer, mixture);
  return EvaluateSliding(*model.engine, val, table, settings, tell, communicator, observer, mixture);
}

// Adapters that learn from each document.
Score Documents(const Model& model, const ShardSet& val, const ByteTable& table, const Settings& settings, BatchObserver* observer,
                NgramMixture* mixture) {
  Progress bar("evaluation of documents", 100);
  DocumentTtt ttt;
  ttt.on_group = [&](int64_t done, int64_t all, double bits_per_byte) {
    bar.Update(100 * done / all, StringPrintf("bpb so far %.4f", bits_per_byte));
    LogProgress("  ttt_eval [%5.1f%%] %jd/%jd documents running_bpb=%.6f", 100.0 * static_cast<double>(done) / static_cast<double>(all), done, all,
                bits_per_byte);
  };
  return EvaluateDocuments(model.parameters, val, table, settings, ttt, observer, mixture);
}

// A digest of the weights, and of the tables where there are some, as they are now.
uint64_t StateOf(const NamedTensors& parameters, const NgramMixture* mixture) {
  Xxh3 digest;
  if (mixture) digest.Update(std::to_string(mixture->Digest()));
  for (const auto& [name, tensor] : parameters) {
    const at::Tensor bytes = tensor.cpu().contiguous();
    digest.Update(std::as_bytes(std::span(static_cast<const char*>(bytes.data_ptr()), bytes.nbytes())));
  }
  return digest.Digest();
}

// The libraries that the scores were computed with: what decoding needs besides the artifact and what the code builds, whose files
// differ from one place to another.
Json Programs() {
  Json programs = Json::array();
  for (const LoadedFile& file : LoadedFiles())
    if (file.from != LoadedFile::From::kCode) programs.push_back({{"name", file.name}, {"bytes", file.bytes}, {"from", NameOf(file.from)}});
  return programs;
}

// Where a proof goes, and the events in their order beside it.
struct ProofFiles {
  OutputFile report, events;
  explicit ProofFiles(const std::string& path) : report(path), events(path + ".events") {}
};

// Throws GateError where something was not proved.
void WriteProof(const Options& options, ProofFiles& files, Proof& proof, const Score& score, const ShardSet& val, const ByteTable& table, const Settings& settings,
                const SplitText& text, Json about) {
  const int64_t text_bytes = text.text_bytes;
  ProofReport report = proof.Finish(score, text.proved);
  Json data;
  if (HasShards(settings.data_path, "train")) {
    const Overlap overlap = CompareDocuments(ShardSet(settings.data_path, "train", settings.vocab_size), val, table);
    if (overlap.shared > 0)
      report.failures.push_back(StringPrintf("%jd of %jd documents of training are documents of validation: %s",
                                             overlap.shared, overlap.train_documents, overlap.first.c_str()));
    data = {{"train_documents", overlap.train_documents},
            {"val_documents", overlap.val_documents},
            {"shared", overlap.shared},
            {"near", overlap.near}};
    Log("prove: documents: %jd of training, %jd of validation, %jd the same, %jd alike", overlap.train_documents,
        overlap.val_documents, overlap.shared, overlap.near);
  } else {
    LogLine("prove: documents: no training shards in " + settings.data_path +
            ": whether validation documents are among them cannot be told");
  }
  Json tokenizer;
  if (text.tokenizer_documents >= 0) {
    if (text.tokenizer_shared > 0)
      report.failures.push_back(StringPrintf("the tokenizer was trained on %jd documents, of which %jd are of validation", text.tokenizer_documents,
                                             text.tokenizer_shared));
    tokenizer = {{"documents", text.tokenizer_documents}, {"shared", text.tokenizer_shared}};
    Log("prove: tokenizer: trained on %jd documents, %jd of them of validation", text.tokenizer_documents, text.tokenizer_shared);
  } else {
    LogLine("prove: tokenizer: what it was trained on is not known: whether validation documents are among it cannot be told");
  }
  if (text_bytes >= 0 && report.bytes > text_bytes)
    report.failures.push_back(StringPrintf("the score counts %jd bytes; the text has %jd", report.bytes, text_bytes));
  if (text.changed_documents > 0)
    report.failures.push_back(StringPrintf("%jd of %jd documents of validation are not what their tokens spell: the tokenizer folds case, characters or "
                                           "blanks, and the score is of the text that is left",
                                           text.changed_documents, text.documents));
  const EventLedger::Result& order = report.order;
  Log("prove: targets: %jd of %jd scored, %jd again, %jd never; %jd learnt from", order.scored, order.targets,
      order.doubled, order.dropped, order.learnt);
  Log("prove: bytes: %jd counted, %jd spelt, %s in the text", report.bytes, report.spelt_bytes,
      text_bytes < 0 ? "not known how many" : std::to_string(text_bytes).c_str());
  Log("prove: order: %jd events, %zu violations", order.events, order.violations.size());
  Log("prove: repeated: %jd scores; flips: %jd, %jd scores before them kept; sums: %jd distributions of %jd, at most "
      "%.2e from 1",
      report.repeated, report.flips, report.kept, report.sums, settings.vocab_size, report.worst_sum);
  for (const std::string& failure : report.failures) LogLine("prove: FAILED: " + failure);
  about.update(
      {{"targets",
        {{"in_all", order.targets},
         {"scored", order.scored},
         {"doubled", order.doubled},
         {"dropped", order.dropped},
         {"learnt_from", order.learnt}}},
       {"bytes",
        {{"counted", report.bytes},
         {"spelt", report.spelt_bytes},
         {"sidecar", report.sidecar_bytes < 0 ? Json() : Json(report.sidecar_bytes)},
         {"text", text_bytes < 0 ? Json() : Json(text_bytes)},
         {"changed_documents", text.changed_documents < 0 ? Json() : Json(text.changed_documents)}}},
       {"order", {{"events", order.events}, {"violations", order.violations}, {"digest", Sha256Hex(proof.Events())}}},
       {"repeated", report.repeated},
       {"flips", {{"tokens", report.flips}, {"scores_kept", report.kept}}},
       {"sums", {{"distributions", report.sums}, {"worst", report.worst_sum}, {"tolerance", kSumTolerance}}},
       {"documents", data},
       {"tokenizer", tokenizer},
       {"failures", report.failures},
       {"proved", report.failures.empty()}});
  files.events.Write(proof.Events());
  files.events.Commit();
  files.report.Write(about.dump(2) + "\n");
  files.report.Commit();
  if (!report.failures.empty())
    throw GateError(options.artifact + ": not proved: " + report.failures[0] +
                    (report.failures.size() > 1
                         ? StringPrintf(" (and %zu more in %s)", report.failures.size() - 1, options.prove.c_str())
                         : ""));
}

// What ranks of one evaluation have in common.
void RequireOneEvaluation(Communicator& communicator, const Subject& subject, const ShardSet& val, const ByteTable& table,
                          const Settings& settings) {
  std::vector<RankInvariant> invariants = ProgramInvariants(Version(), SourceDigest(), settings, scope::kEvaluate);
  invariants.push_back({"the file", subject.digest});
  invariants.push_back({"the validation split", val.Identity() + " " + val.BytesIdentity()});
  invariants.push_back({"the byte table", table.digest});
  RequireAgreement(communicator, invariants);
}

// What the scores were made from, as check-chain compares it; the digests of the text are beside it.
Json LineageOf(const Subject& subject, const Settings& settings) {
  Lineage lineage = OpenLineage("eval-sliding", Version(), SourceDigest(), settings, scope::kEvaluate);
  Lineage made_by;
  made_by.tool = subject.program;
  made_by.source_digest = subject.program_digest;
  if (subject.program.empty())
    lineage.inputs.push_back({"artifact", subject.digest, {}});
  else
    lineage.inputs.push_back({std::string(KindName(subject.kind)), subject.identity, made_by});
  return LineageJson(lineage);
}

// What the bytes of the score are.
void LogText(const SplitText& text) {
  if (!text.proved) {
    Log("text: unknown; %jd bytes by the byte table or sidecar, not proved", text.bytes);
  } else if (text.bytes == text.text_bytes) {
    Log("text: all of its %jd bytes", text.bytes);
  } else {
    Log("text: %jd of its %jd bytes; the tokenizer drops or folds the others", text.bytes, text.text_bytes);
  }
}

Json Evaluate(const Options& options, Settings& settings, const Runtime& runtime) {
  cuda::Device* const device = runtime.device;
  Communicator& communicator = *runtime.communicator;
  const auto start = Clock::now();
  const Subject subject = Open(options.artifact, settings, runtime);
  const Settings stated = settings;  // what a chain knows
  settings = settings.ForEvaluation();
  const bool sliding = IsSliding(settings), each_anew = settings.method == "sliding";
  const bool documents = LearnsByDocument(settings);
  const bool final_only = !sliding && !documents;  // plain evaluation is all there is
  CheckMethod(settings, device != nullptr);
  const bool mixing = settings.ngram_order > 0;
  if (!final_only && (!each_anew || mixing) && communicator.world_size() > 1)
    throw UsageError((mixing ? "ngram_order" : "method = " + settings.method) + ": what is scored depends on all before it: one process does it");
  const ShardSet val(settings.data_path, "val", settings.vocab_size);
  const ByteTable table = ByteTable::Load(settings);
  const SplitText text = CheckText(val, table);
  LogText(text);
  const double memory = subject.memory + (mixing ? NgramMixture::Bytes(settings.ngram_order, val.tokens()) : 0) +
                        (documents ? DocumentTttBytes(settings, text.documents, val.tokens()) : 0);
  SayMemory(settings, runtime, memory);
  if (communicator.world_size() > 1) {
    Log("world_size:%jd backend:%s", communicator.world_size(), communicator.name().c_str());
    RequireOneEvaluation(communicator, subject, val, table, settings);
  }

  Model model{.parameters = subject.parameters, .gradients = {}, .engine = nullptr};
  for (auto& [name, tensor] : model.parameters) tensor = tensor.to(TorchDevice(device));
  if (sliding && settings.method == "ttt" && !documents)
    for (const auto& [name, tensor] : model.parameters) model.gradients.emplace_back(name, at::zeros_like(tensor, at::kFloat));
  model.engine = MakeEngine(settings, model.parameters, model.gradients, device);

  std::optional<NgramMixture> ngrams;
  if (mixing) ngrams.emplace(settings.ngram_order, settings.vocab_size);
  NgramMixture* const mixture = ngrams ? &*ngrams : nullptr;

  std::optional<Proof> proof;
  std::optional<ProofFiles> proof_files;  // a place that cannot be written to is found before the work
  if (!options.prove.empty()) {
    if (communicator.world_size() > 1) throw UsageError("--prove checks every batch, which takes one process");
    proof_files.emplace(options.prove);
    proof.emplace(val, table, [&] { return StateOf(model.parameters, mixture); }, kProofSamples, static_cast<uint64_t>(settings.seed));
  }
  BatchObserver* const observer = proof ? &*proof : nullptr;
  std::optional<Score> plain;  // none of a split without a whole sequence
  if (!final_only && val.tokens() > settings.train_seq_len) {
    plain = Plain(*model.engine, val, table, settings, communicator);
    Log("plain_eval val_loss:%.8f val_bpb:%.8f targets:%jd dropped:%jd", plain->val_loss, plain->val_bpb,
        plain->targets, plain->dropped);
  }
  if (documents) {
    Log("final_eval_mode:documents chunk:%jd batch_documents:%jd window:%jd rank:%jd", settings.ttt_chunk_size, settings.ttt_batch_size,
        settings.ttt_eval_seq_len, settings.ttt_lora_rank);
  } else if (sliding) {
    Log("final_eval_mode:sliding_window stride:%jd batch_seqs:%jd%s", settings.eval_stride, settings.eval_batch_seqs,
        each_anew ? "" : (" method:" + settings.method).c_str());
  } else {
    Log("final_eval_mode:standard");
  }
  if (mixing) Log("final_eval_mixture:ngrams order:%jd", settings.ngram_order);
  const auto final_start = Clock::now();
  const Score score = documents ? Documents(model, val, table, settings, observer, mixture)
                      : sliding ? Sliding(model, val, table, settings, communicator, observer, mixture)
                                : Plain(*model.engine, val, table, settings, communicator, observer);
  if (final_only) plain = score;
  // The field's name, of weights that came back from codes.
  const char* name = subject.kind == Kind::kQuantised ? "final_int8_zlib_roundtrip" : "final_unrounded_weights";
  Log("%s val_loss:%.4f val_bpb:%.4f eval_time:%.0fms", name, score.val_loss, score.val_bpb, 1000 * SecondsSince(final_start));
  Log("%s_exact val_loss:%.8f val_bpb:%.8f", name, score.val_loss, score.val_bpb);
  val.CheckUnchanged();
  if (!std::isfinite(score.val_loss)) throw InputError(subject.path, "its losses are not finite numbers");
  if (proof) {
    WriteProof(options, *proof_files, *proof, score, val, table, settings, text,
               {{"tool", "eval-sliding"}, {"artifact_digest", subject.digest}, {"val_digest", val.Identity()}, {"byte_table_digest", table.digest},
                {"method", final_only ? "plain" : settings.method}, {"val_bpb", score.val_bpb}});
  }

  Json result = {
      {"val_loss", score.val_loss},
      {"val_bpb", score.val_bpb},
      {"val_loss_plain", plain ? Json(plain->val_loss) : Json()},
      {"val_bpb_plain", plain ? Json(plain->val_bpb) : Json()},
      {"targets", score.targets},
      {"bytes", score.bytes},
      {"targets_rescored", score.rescored},
      {"targets_dropped", score.dropped},
      {"targets_plain", plain ? plain->targets : 0},
      {"method", final_only ? "plain" : settings.method},
      {"stride", documents ? settings.ttt_chunk_size : sliding ? settings.eval_stride : settings.train_seq_len},
      {"seq_len", settings.train_seq_len},
      {"published_quirks", settings.published_quirks},
      {"published_entry", settings.published_entry},
      {"packed_documents", settings.packed_documents},
      {"artifact_bytes", subject.bytes},
      {"artifact_digest", subject.digest},
      {"identity", subject.identity},
      {"made_from", subject.made_from},
      {"lineage", LineageOf(subject, stated)},
      {"val_digest", val.Identity()},
      {"byte_sidecar_digest", val.has_bytes() ? Json(val.BytesIdentity()) : Json()},
      {"byte_table_digest", table.digest},
      {"bytes_proved", text.proved},
      {"text_bytes", text.text_bytes < 0 ? Json() : Json(text.text_bytes)},
      {"text_digest", text.text_digest.empty() ? Json() : Json(text.text_digest)},
      {"tokenizer_bytes", text.tokenizer_bytes < 0 ? Json() : Json(text.tokenizer_bytes)},
      {"programs", Programs()},
      {"precision", settings.precision},
      {"threads", runtime.threads()},
      {"cpu", runtime.processor()},
      {"seconds", SecondsSince(start)},
  };
  if (mixing) result["ngram_order"] = settings.ngram_order;
  if (documents) {
    for (const auto& [name, value] : settings.Select(scope::kEvaluate))
      if (name.starts_with("ttt_") || name.starts_with("global_ttt_") || name.starts_with("phased_ttt_")) result["ttt"][name] = value;
  }
  if (!model.gradients.empty()) {
    result["ttt"] = {{"chunk_tokens", settings.ttt_chunk_tokens},
                     {"steps", settings.ttt_steps},
                     {"lr", settings.ttt_lr},
                     {"momentum", settings.ttt_momentum}};
  }
  return result;
}

// What two scores of the same evaluation have in common.
constexpr const char* kEvaluation[] = {"val_digest", "byte_table_digest", "method",  "stride", "seq_len",
                                       "published_quirks", "precision", "targets", "bytes"};
constexpr const char* kScores[] = {"val_loss", "val_bpb"};

// An earlier eval.json.
Json ReadExpected(const std::string& path) {
  const InputFile file(path);
  const Json expected = ParseJson<Json>(file.text(), file.path());
  if (!expected.is_object()) throw InputError(file.path(), "is not an eval.json");
  for (const char* name : kEvaluation)
    if (!expected.contains(name)) throw InputError(file.path(), std::string("misses ") + name);
  for (const char* name : kScores)
    if (!expected.contains(name) || !expected[name].is_number()) throw InputError(file.path(), std::string("misses ") + name);
  return expected;
}

// Compares a score with an earlier one of the same evaluation.
void Compare(const Json& score, const Json& expected, const Options& options) {
  const auto require_same = [&](const char* name, const Json& there, const Json& here) {
    if (there != here)
      throw InputError(options.expect, std::string("is of another evaluation: ") + name + " is " + there.dump() + " there and " + here.dump() + " here");
  };
  for (const char* name : kEvaluation) require_same(name, expected[name], score[name]);
  // Of files that older programs wrote the sidecar is absent, as it is of splits without one.
  if (expected.value("byte_sidecar_digest", Json()) != score["byte_sidecar_digest"])
    throw InputError(options.expect, "is of another evaluation: its bytes are counted by another sidecar");
  for (const char* name : {"published_entry", "packed_documents"})  // absent from older files
    if (expected.contains(name)) require_same(name, expected[name], score[name]);
  for (const char* name : {"ttt", "ngram_order"}) require_same(name, expected.value(name, Json()), score.value(name, Json()));  // only where they are used
  // One machine with one thread count repeats itself; others may take sums in another order.
  const bool same_machine =
      expected.value("threads", Json()) == score["threads"] && expected.value("cpu", Json()) == score["cpu"];
  const double tolerance = options.tolerance >= 0 ? options.tolerance : same_machine ? 5e-9 : 1e-4;
  std::string beyond;
  for (const char* name : kScores) {
    const double difference = score[name].get<double>() - expected[name].get<double>();
    Log("expect %s:%.8f got:%.8f difference:%.2e allowed:%.0e", name, expected[name].get<double>(),
        score[name].get<double>(), difference, tolerance);
    if (!(std::abs(difference) <= tolerance)) {
      beyond += StringPrintf("%s%s differs by %.2e", beyond.empty() ? "" : " and ", name, difference);
    }
  }
  if (!beyond.empty()) {
    throw GateError(options.artifact + ": " + beyond + " from " + options.expect + ", more than " +
                    ShortestDouble(tolerance));
  }
}

// Text that appears on standard error as it is generated: whole characters only, and of control characters only line breaks and tabs.
class Stream {
 public:
  explicit Stream(bool shown) : shown_(shown) {}
  ~Stream() { Show(held_ + "\n"); }
  void Add(const std::string& text) {
    held_ += text;
    size_t whole = held_.size();  // without a last character whose other bytes are still to come
    for (size_t back = 1; back <= std::min<size_t>(3, held_.size()); ++back) {
      const auto byte = static_cast<unsigned char>(held_[held_.size() - back]);
      if ((byte & 0xC0) == 0x80) continue;
      const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
      if (length > back) whole -= back;
      break;
    }
    Show(held_.substr(0, whole));
    held_.erase(0, whole);
  }

 private:
  void Show(const std::string& text) const {
    if (!shown_) return;
    std::string shown;
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = std::min(text.find_first_of("\n\t", begin), text.size());
      shown += Printable(text.substr(begin, end - begin));
      if (end < text.size()) shown += text[end];
      begin = end + 1;
    }
    std::fprintf(stderr, "%s", shown.c_str());
  }

  const bool shown_;
  std::string held_;
};

// `file`: where the samples go, too; null: nowhere.
Json Continue(const Options& options, OutputFile* file, Settings& settings, const Runtime& runtime) {
  const Subject subject = Open(options.artifact, settings, runtime);
  SayMemory(settings, runtime, subject.memory);
  const ByteTable table = ByteTable::Load(settings);
  const Transformer model(settings, subject.parameters);
  const bool case_ops = table.case_ops();
  const auto given = [](auto value, auto otherwise) { return value < 0 ? otherwise : value; };
  const int64_t most = given(options.tokens, int64_t{64}), top_k = given(options.top_k, int64_t{0});
  const double temperature = given(options.temperature, 0.8), top_p = given(options.top_p, 0.95);
  Json samples = Json::array();
  for (const std::string& prompt : options.prompts) {
    std::vector<int64_t> ids = table.Encode(prompt);
    CaseDecoder decoder;
    decoder.Decode(table.Spell(ids));  // the prompt may leave a case open
    ids.insert(ids.begin(), kBos);
    const bool shown = file == nullptr;
    if (shown && !samples.empty()) std::fprintf(stderr, "\n");
    std::string text;
    int64_t previous = ids.back(), tokens = 0;
    {
      Stream stream(shown);
      stream.Add(prompt);
      const Sampling sampling{.tokens = most,
                              .temperature = temperature,
                              .top_k = top_k,
                              .top_p = top_p,
                              .seed = static_cast<uint64_t>(settings.seed) + samples.size(),
                              .stop = kBos};
      Generate(model, settings, ids, sampling, [&](int64_t id) {
        std::string piece = table.Spell({id});
        // The first piece of a document is spelt with a space that is not in its text.
        if (table.pieces[id].leading_space && table.pieces[previous].boundary) piece.erase(0, 1);
        if (case_ops) piece = decoder.Decode(piece);
        stream.Add(piece);
        text += piece;
        previous = id;
        ++tokens;
      });
      if (case_ops) {
        const std::string rest = decoder.Finish();
        stream.Add(rest);
        text += rest;
      }
    }
    samples.push_back({{"prompt", prompt}, {"text", text}, {"tokens", tokens}});
  }
  const Json result = {{"samples", samples},
                       {"temperature", temperature},
                       {"top_k", top_k},
                       {"top_p", top_p},
                       {"seed", settings.seed},
                       {"identity", subject.identity}};
  if (file != nullptr) {
    file->Write(result.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    file->Commit();
  } else if (isatty(STDOUT_FILENO)) {
    return nullptr;  // the terminal shows the text already
  }
  return result;
}

int Main(int argc, char** argv) {
  Options options;
  Settings settings;
  CommandLine line(
      "eval-sliding",
      "Scores an artifact, or a checkpoint of weights, on the validation split in bits per byte. Reads the file, "
      "the split's shards and the byte table, and nothing else.",
      "eval-sliding --profile tiny model.bin.zst --out eval.json");
  line.Input("ARTIFACT", options.artifact, "artifact, weights or quantised checkpoint; -: standard input");
  line.OutputOption("--out", options.out, "write the scores (eval.json) or, with --generate, the samples to this file too");
  line.Option("--expect", options.expect, "an earlier eval.json: end with status 5 if the scores differ from it");
  line.Option(
      "--tolerance", options.tolerance, 0, 1e9,
      "--expect: largest difference allowed; default 5e-9 on the same processor with the same threads, 1e-4 elsewhere");
  line.OutputOption("--prove", options.prove,
                    "prove the score on the path that scores, and write what was proved here, the order of events beside it: each target "
                    "once, bytes as the text has them, distributions that sum to 1, no score changed by a later token, nothing learnt "
                    "before it was scored, no validation document in training; status 5 where something is not so");
  line.Option("--generate", options.prompts,
              "continue this text instead of scoring, shown as it is generated unless --out is given; an empty text begins a document; may be given several times");
  line.Option("--tokens", options.tokens, 1, 1 << 20, "--generate: tokens to add at most; a document may end earlier [64]");
  line.Option("--temperature", options.temperature, 0, 1e3, "--generate: temperature of sampling; 0 takes the most likely token [0.8]");
  line.Option("--top-k", options.top_k, 0, 1 << 20, "--generate: sample from this many of the most likely tokens; 0: from all [0]");
  line.Option("--top-p", options.top_p, 0, 1,
              "--generate: sample from the most likely tokens whose probabilities sum to this; --seed N seeds the draws [0.95]");
  line.Use(settings, scope::kEvaluate);
  line.Inherit(options.artifact, [](const std::string& path) { return OpenWeights(InputFile(path)).settings(); });
  line.Ranks();
  return RunTool(line, argc, argv, [&]() -> Json {
    const Runtime runtime(settings);
    if (options.prove == "-") throw UsageError("--prove writes two files: give it a name");
    std::optional<OutputFile> out;
    if (!options.out.empty() && runtime.communicator->rank() == 0) out.emplace(options.out);
    if (!options.prompts.empty()) {
      for (const auto& [flag, given] : {std::pair{"--expect", !options.expect.empty()}, {"--prove", !options.prove.empty()}})
        if (given) throw UsageError(std::string("--generate computes no score: leave out ") + flag);
      if (runtime.communicator->world_size() > 1) throw UsageError("--generate is for one process");
      return Continue(options, out ? &*out : nullptr, settings, runtime);
    }
    for (const auto& [flag, given] : {std::pair{"--tokens", options.tokens >= 0}, {"--temperature", options.temperature >= 0},
                                      {"--top-k", options.top_k >= 0}, {"--top-p", options.top_p >= 0}})
      if (given) throw UsageError(std::string(flag) + " is for --generate TEXT, which continues a text");
    // What cannot be compared with is refused before any work.
    const Json expected = options.expect.empty() ? Json() : ReadExpected(options.expect);
    const Json score = Evaluate(options, settings, runtime);
    if (runtime.communicator->rank() > 0) return nullptr;
    if (!options.expect.empty()) Compare(score, expected, options);
    if (out) {
      out->Write(score.dump(2) + "\n");
      out->Commit();
    }
    return score;
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  return fairway::Main(argc, argv);
}
