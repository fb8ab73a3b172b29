// What a record's name and texts say it does, against the signs of it in the logs; and the settings that its command
// sets.
#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "common/audit/context.h"
#include "common/base/text.h"

namespace fairway::audit {
namespace {

constexpr size_t kMaxText = 3000;

struct Technique {
  const char* name;
  const char* claim;                    // a pattern over the texts, case aside
  std::vector<std::string_view> signs;  // in a line of the log that says that it acts or acted
  std::vector<const char*> switches;    // settings that are false or 0 where it is off
  const char* source;                   // a word that a script which has it contains; null where there is no one word
  bool event = false;  // it begins in the run, and a line says so: a switch that is on is no sign of it
  std::vector<const char*> hints = {};  // settings that only a script which has it prints; where no switch is there
  bool replaced_by_swa = false;         // where only SWA's weights are said to be applied, it is not what was exported
};

const std::vector<Technique>& Techniques() {
  static const std::vector<Technique> techniques = {
      {"EMA",
       R"(\bEMA\b|exponential moving average)",
       {"ema:applying", "applying ema", "ema weights", "post_ema", "post-ema", "ema_decay=", "loading ema"},
       {"ema_enabled", "ema_decay"},
       "ema",
       true,
       {},
       true},
      {"SWA",
       R"(\bSWA\b|stochastic weight averag)",
       {"swa:start", "swa:applying", "swa_start", "swa-averaged", "averaged checkpoints", "swa:averag"},
       {"swa_enabled"},
       "swa",
       true},
      {"late QAT",
       R"(late[- ]QAT|QAT@)",
       {"late_qat:enabled", "late_qat: enabled", "late qat enabled", "qat:enabled", "qat enabled"},
       {"late_qat", "qat_enabled", "qat"},
       "qat",
       true},
      {"QAT",
       R"(\bQAT\b)",
       {"late_qat:enabled", "late_qat: enabled", "qat_enabled:true", "qat_enabled: true", "qat:true", "qat:enabled",
        "qat enabled"},
       {"qat_enabled", "qat"},
       "qat"},
      {"depth recurrence",
       R"(depth[- ]recurrence|layer recurrence|recurrent depth|\bloop ?\d|layer loop|\brecur\b)",
       {"layer_loop:enabled", "recurrence:activated", "loop:enabled", "recur:enabled", "recurrence: activated"},
       {"num_loops"},
       nullptr,
       true},
      {"test-time training", R"(\bTTT\b|test[- ]time training)", {"ttt"}, {"ttt_enabled"}, "ttt", true},
      {"full GPTQ", R"(\bGPTQ\b(?!-lite))", {"gptq"}, {"gptq_enabled"}, "gptq", true},
      {"GPTQ-lite", R"(GPTQ-lite)", {"gptq-lite", "gptq_lite"}, {}, nullptr},
      {"sliding windows", R"(sliding[- ]window)", {"sliding"}, {"sliding_window_enabled"}, "slid", true},
      {"XSA", R"(\bXSA|exclusive self)", {"xsa"}, {"xsa_last_n"}, "xsa"},
      {"parallel residuals",
       R"(parallel (residual|decoder|resid)|\bParResid)",
       {"parallel_residual: active=1", "parallel_residual:active=1", "parallel_resid_lambdas", "lane_merge"},
       {"parallel_residual"},
       nullptr,
       false,
       {"parallel_residual_start", "parallel_start_layer"}},
      {"gated attention",
       R"(gated attention|\bGatedAttn)",
       {"gated_attn_enabled: true"},
       {"gated_attn_enabled"},
       nullptr},
      {"sparse attention gate",
       R"(sparse[- ]?att(entio)?n[- ]?gate|SparseGate|SparseAttnGate)",
       {"sparse_attn_gate_enabled: true", "attn_gate_w"},
       {"sparse_attn_gate_enabled"},
       nullptr},
      {"smear gate", R"(smear[- ]?gate)", {"smear"}, {"smear_gate_enabled"}, "smear"},
      {"LQER", R"(\bLQER\b)", {"lqer"}, {"lqer_enabled"}, "lqer"},
      {"CaseOps", R"(caseops)", {"caseops"}, {"caseops_enabled"}, nullptr},
      {"n-gram tilt or cache",
       R"(n-?gram (tilt|cache|backoff)|n-gram TTT|multi-order n-gram)",
       {"ngram"},
       {"ngram_tilt_enabled", "ngram_enabled"},
       "gram"},
      {"SLOT", R"(\bSLOT\b|SLOT-\d)", {"slot"}, {"slot_enabled"}, "slot"},
      {"AWQ", R"(\bAWQ)", {"awq"}, {"awq_lite_enabled"}, "awq"},
      {"asymmetric logits", R"(AsymLogit)", {"asym_logit"}, {"asym_logit_rescale"}, nullptr},
      {"gated XSA", R"(gated XSA)", {"xsa_alpha"}, {"gated_xsa_enabled"}, nullptr},
      {"row-normalised Muon",
       R"(MuonEq-?R|row-normalized muon)",
       {"muon_eq_r", "muon_row_normalize"},
       {"muon_row_normalize"},
       nullptr},
      {"PPM mixture", R"(\bPPM\b|PPM-D|byte mixer)", {"ppm"}, {"ppm_byte_conditional_enabled", "ppm_enabled"}, "ppm"},
      {"fused cross entropy", R"(fused (softcapped )?CE\b)", {"fused_ce"}, {"fused_ce_enabled"}, nullptr},
  };
  return techniques;
}

// A number in a text that a setting of the log must have.
struct Number {
  const char* pattern;  // of one group; a second is for the second list
  std::vector<const char*> settings, second;
};

const std::vector<Number>& Numbers() {
  static const std::vector<Number> numbers = {
      {R"(\bQK[-_ ]?Gain(?: INIT)?[ =]*(\d+(?:\.\d+)?))", {"qk_gain_init"}, {}},
      {R"(\bEMA[ (=]*(?:weight averaging \()?(?:decay[ =]*)?(0?\.\d+))", {"ema_decay"}, {}},
      {R"(\b(?:Muon )?WD[ =]*(0?\.\d+))", {"muon_wd", "muon_weight_decay", "weight_decay"}, {}},
      {R"(\bMLR[ =]*(0?\.\d+))", {"matrix_lr"}, {}},
      {R"(\bwarmdown[ =_-]?(\d+(?:\.\d+)?)\b)", {"warmdown_frac", "warmdown_iters"}, {}},
      {R"(\bXSA(?: on)?(?: the)? last (\d+))", {"xsa_last_n", "use_xsa_count"}, {}},
      {R"(\bXSA(\d+)\b)", {"xsa_last_n", "use_xsa_count"}, {}},
      {R"(\bloop ?(\d)-?(\d)(?!\d))", {"loop_start"}, {"loop_end"}},
      {R"(\bloop(?:s|ing)? layers (\d)(?:,\d)*,(\d))", {"loop_start"}, {"loop_end"}},
      {R"(\brecurrence \(L(\d)-(\d)\))", {"loop_start"}, {"loop_end"}},
      {R"(\b(\d{1,2})L\b)", {"num_layers"}, {}},
      {R"(\bMLP ?(\d(?:\.\d)?)x)", {"mlp_mult"}, {}},
      {R"(\bSP(\d{4})\b)", {"vocab_size"}, {}},
      {R"(\bseq(?: ?len)?[ =]*(\d{4})\b)", {"train_seq_len", "eval_seq_len"}, {}},
  };
  return numbers;
}

// Names are written with underscores.
std::string Words(const std::string& text) {
  std::string words = text.substr(0, kMaxText);
  std::ranges::replace(words, '_', ' ');
  return words;
}

// Whether the words before a mention deny it: "no TTT", "dropped QAT", "instead of EMA".
bool Denied(const std::string& text, size_t at) {
  static const std::regex denial(
      R"((?:\bno|\bnot|\bnon|without|drop\w*|remov\w*|\bvs\.?|versus|than|instead of|replac\w*|disabl\w*|\boff|zero)[ \-_]+(?:\w+[ \-])?$)",
      std::regex::icase);
  const std::string before = text.substr(at > 30 ? at - 30 : 0, std::min<size_t>(at, 30));
  return std::regex_search(before, denial);
}

// "4.0 → 5.25": what it was changed to counts.
void ReadChanged(const std::string& text, size_t at, Figure* figure) {
  std::string_view rest = std::string_view(text).substr(std::min(at, text.size()));
  const auto skip = [&] {
    while (rest.starts_with(' ')) rest.remove_prefix(1);
  };
  skip();
  for (const std::string_view arrow : {"\xe2\x86\x92", "->", "=>", "to "}) {
    if (!rest.starts_with(arrow)) continue;
    rest.remove_prefix(arrow.size());
    skip();
    ReadFigure(rest, figure);
    return;
  }
}

bool IsOff(const std::string& value) {
  const std::string lower = Lower(Trim(value));
  Figure figure;
  return lower == "false" || lower == "none" || (ReadFigure(lower, &figure) && figure.value == 0);
}

std::string SourceText(const Context& context) {
  if (context.folder.script && context.folder.script->text.find("def ") != std::string::npos)
    return Lower(context.folder.script->text);
  for (const FolderLog* log : context.counted)
    if (log->log.source.find("def ") != std::string::npos) return Lower(log->log.source);
  return "";
}

}  // namespace

void CheckTechniques(Context& context) {
  const std::string source = SourceText(context);
  const std::vector<const Statement*> texts = context.Texts();
  std::set<std::string> claimed;
  for (const Technique& technique : Techniques()) {
    if (std::string_view(technique.name) == "QAT" && claimed.contains("late QAT")) continue;
    const std::regex pattern(technique.claim, std::regex::icase);
    const Statement* claim = nullptr;
    std::string mention;
    for (const Statement* text : texts) {
      const std::string body = Words(text->text);
      for (std::sregex_iterator match(body.begin(), body.end(), pattern), end; match != end && !claim; ++match) {
        if (Denied(body, static_cast<size_t>(match->position()))) continue;
        claim = text;
        mention = match->str();
      }
      if (claim) break;
    }
    if (!claim) continue;
    claimed.insert(technique.name);
    const std::string at = context.folder.At(*claim), stated = std::string(technique.name) + " (\"" +
                                                               Shorten(Printable(mention), 30) + "\" in " + claim->key +
                                                               ")";

    std::vector<std::string> signs, off, silent;
    std::string sign_text, off_text;
    const LoggedLine* swa = nullptr;
    std::string swa_at, set_text, set_at;
    for (const FolderLog* log : context.counted) {
      if (!log->log.HasSteps() && !log->log.HasFinalScore()) continue;
      // A switch that is off, unless a line says that the thing acted all the same.
      const LoggedLine* note = nullptr;
      for (const LoggedLine& one : log->log.notes) {
        const std::string lower = Lower(one.text);
        if (std::ranges::any_of(technique.signs,
                                [&](std::string_view sign) { return lower.find(sign) != std::string::npos; }) &&
            lower.find("active=0") == std::string::npos) {
          note = &one;
          break;
        }
      }
      const LoggedLine* on = nullptr;
      const LoggedLine* turned_off = nullptr;
      const char* name = nullptr;
      for (const char* one : technique.switches) {
        const LoggedLine* setting = log->log.Setting({one});
        if (!setting) continue;
        if (IsOff(setting->text)) {
          if (!turned_off) turned_off = setting, name = one;
        } else {
          on = setting, name = one;
          break;
        }
      }
      if (!on && !turned_off) {
        for (const char* one : technique.hints)
          if (const LoggedLine* setting = log->log.Setting({one}); setting && !IsOff(setting->text) && !on)
            on = setting, name = one;
      }
      if (const PublishedSet* set = SetOf(log->log);
          set && !note && std::string_view(technique.name) == "CaseOps" &&
          std::string_view(set->name).find("CaseOps") != std::string_view::npos) {
        if (sign_text.empty())
          sign_text = Count(log->log.validation_tokens->value) + " validation tokens are its split's";
        signs.push_back(log->At(log->log.validation_tokens->line));
        continue;
      }
      const LoggedLine* score = nullptr;
      static thread_local LoggedLine score_line;
      for (const LoggedScore& one : log->log.scores) {
        const std::string lower = Lower(one.label);
        if (std::ranges::any_of(technique.signs,
                                [&](std::string_view sign) { return lower.find(sign) != std::string::npos; })) {
          score_line = {one.label + " val_bpb " + Decimal(one.bpb), one.line};
          score = &score_line;
        }
      }
      if (note || score) {
        const LoggedLine* sign = note ? note : score;
        if (sign_text.empty()) sign_text = Shorten(sign->text, 90);
        signs.push_back(log->At(sign->line));
      } else if (on && technique.event) {
        set_text = std::string(name) + ": " + Shorten(on->text, 40);
        set_at = log->At(on->line);
        silent.push_back(log->name);
      } else if (on) {
        if (sign_text.empty()) sign_text = std::string(name) + ": " + Shorten(on->text, 40);
        signs.push_back(log->At(on->line));
      } else if (turned_off) {
        off_text = std::string(name) + ": " + turned_off->text;
        off.push_back(log->At(turned_off->line));
      } else if (log->log.HasSteps()) {  // a log of an evaluation alone shows nothing of training
        silent.push_back(log->name);
        if (!swa) {
          swa = log->log.Note({"swa:applying", "swa-averaged"});
          if (swa) swa_at = log->At(swa->line);
        }
      }
    }
    if (signs.empty() && off.empty() && silent.empty()) {
      context.Add("techniques", stated, at, "there is no log to look in", "", Verdict::kUnknown);
    } else if (!off.empty()) {
      context.Add("techniques", stated, at, "switched off: " + off_text, Locations(off), Verdict::kContradicted);
    } else if (!signs.empty() && silent.empty()) {
      context.Add("techniques", stated, at, sign_text, Locations(signs), Verdict::kHolds);
    } else if (!signs.empty()) {
      context.Add("techniques", stated, at, sign_text + "; no sign of it in " + Locations(silent), Locations(signs),
                  Verdict::kUnknown);
    } else if (technique.replaced_by_swa && swa) {
      context.Add("techniques", stated, at, "no sign of it having acted; what was exported: " + Shorten(swa->text, 60),
                  swa_at, Verdict::kContradicted);
    } else if (technique.source && !source.empty() && source.find(technique.source) == std::string::npos) {
      context.Add("techniques", stated, at, "no sign of it having acted, and the script has nothing of that name",
                  Locations(silent), Verdict::kContradicted);
    } else if (!set_text.empty()) {
      context.Add("techniques", stated, at, "set (" + set_text + "), but no line says that it acted", set_at,
                  Verdict::kUnknown);
    } else {
      context.Add("techniques", stated, at,
                  StringPrintf("no sign of it having acted in %zu log%s", silent.size(), silent.size() == 1 ? "" : "s"),
                  Locations(silent), Verdict::kUnknown);
    }
  }

  // Numbers that the texts name.
  const auto compare = [&](const std::vector<std::pair<std::vector<const char*>, double>>& wanted, std::string* held, std::string* held_at,
                           std::string* wrong, std::string* wrong_at) {
    for (const FolderLog* log : context.counted) {
      std::string shown;
      bool found = false, same = true;
      int64_t line = 0;
      for (const auto& [names, value] : wanted) {
        bool one = false, known = false;
        for (const char* name : names) {
          const LoggedLine* setting = log->log.Setting({name});
          Figure figure;
          if (!setting || !ReadFigure(setting->text, &figure)) continue;
          known = true;
          one |= std::fabs(figure.value - value) <= 1e-9;
          line = setting->line;
          shown += (shown.empty() ? "" : ", ") + std::string(name) + ": " + setting->text;
        }
        found |= known;
        same &= !known || one;
      }
      if (!found) continue;
      if (same) {
        if (held->empty()) *held = shown, *held_at = log->At(line);
      } else if (wrong->empty()) {
        *wrong = shown, *wrong_at = log->At(line);
        // Whether the last layer that is named is looped too, the log shows.
        if (const LoggedLine* loop = wanted.size() > 1 ? log->log.Note({"layer_loop:enabled"}) : nullptr)
          *wrong += "; " + Shorten(loop->text, 100), *wrong_at += ", " + log->At(loop->line);
      }
    }
  };
  for (const Number& number : Numbers()) {
    const std::regex pattern(number.pattern, std::regex::icase);
    std::string held, held_at, wrong, wrong_at, mention;
    const Statement *claim = nullptr, *held_claim = nullptr;
    std::string held_mention;
    for (const Statement* text : texts) {
      const std::string body = Words(text->text);
      for (std::sregex_iterator match(body.begin(), body.end(), pattern), end; match != end; ++match) {
        std::vector<std::pair<std::vector<const char*>, double>> wanted;
        Figure figure;
        if (!ReadFigure(match->str(1).starts_with('.') ? "0" + match->str(1) : match->str(1), &figure)) continue;
        if (match->size() == 2) ReadChanged(body, static_cast<size_t>(match->position() + match->length()), &figure);
        std::vector<const char*> settings;
        for (const char* name : number.settings) {
          // A fraction of the run and a number of steps are distinguished by their size.
          const std::string_view of = name;
          if ((of.ends_with("_frac") && figure.value > 1) || (of.ends_with("_iters") && figure.value <= 1)) continue;
          settings.push_back(name);
        }
        wanted.emplace_back(settings, figure.value);
        if (match->size() > 2 && ReadFigure(match->str(2), &figure)) wanted.emplace_back(number.second, figure.value);
        std::string now, now_at, not_now, not_at;
        compare(wanted, &now, &now_at, &not_now, &not_at);
        if (!not_now.empty()) {
          if (!claim) claim = text, mention = match->str(), wrong = not_now, wrong_at = not_at;
        } else if (!now.empty() && !held_claim) {
          held_claim = text, held_mention = match->str(), held = now, held_at = now_at;
        }
      }
    }
    // A text may name two values: what was, and what is.
    if (held_claim) {
      context.Add("settings", "\"" + Shorten(Printable(held_mention), 40) + "\" in " + held_claim->key,
                  context.folder.At(*held_claim), held, held_at, Verdict::kHolds);
    } else if (claim) {
      context.Add("settings", "\"" + Shorten(Printable(mention), 40) + "\" in " + claim->key, context.folder.At(*claim),
                  wrong, wrong_at, Verdict::kContradicted);
    }
  }
  // NAME=value in the texts.
  static const std::regex assignment(R"(\b([A-Z][A-Z0-9_]{3,})=(\d+(?:\.\d+)?)\b)");
  std::set<std::string> done;
  for (const Statement* text : texts) {
    const std::string body = text->text.substr(0, kMaxText);
    for (std::sregex_iterator match(body.begin(), body.end(), assignment), end; match != end; ++match) {
      const std::string name = Lower(match->str(1));
      Figure figure;
      if (name == "rank" || name == "seed" || name == "seeds" || !ReadFigure(match->str(2), &figure) ||
          !done.insert(name).second)
        continue;
      ReadChanged(body, static_cast<size_t>(match->position() + match->length()), &figure);
      std::string held, held_at, wrong, wrong_at;
      const char* const names = name.c_str();
      compare({{{names}, figure.value}}, &held, &held_at, &wrong, &wrong_at);
      if (!wrong.empty())
        context.Add("settings", "\"" + match->str() + "\" in " + text->key, context.folder.At(*text), wrong, wrong_at,
                    Verdict::kContradicted);
      else if (!held.empty())
        context.Add("settings", "\"" + match->str() + "\" in " + text->key, context.folder.At(*text), held, held_at,
                    Verdict::kHolds);
    }
  }
}

void CheckCommand(Context& context) {
  if (!context.folder.readme) return;
  const FolderFile& readme = *context.folder.readme;
  struct Mention {
    double value;
    std::string text;
    int64_t line;
  };
  std::map<std::string, std::vector<Mention>> mentions;
  // `NAME=value` before a program, in blocks of code.
  bool fenced = false;
  int64_t number = 0;
  std::vector<std::string> header;
  for (std::string_view rest = readme.text; !rest.empty();) {
    const std::string_view raw = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), raw.size() + 1));
    ++number;
    const std::string line = Trim(raw.substr(0, 2000));
    if (line.starts_with("```")) {
      fenced = !fenced;
      continue;
    }
    if (fenced) {
      for (std::string field : Split(line, ' ')) {
        const size_t equals = field.find('=');
        if (equals == std::string::npos || equals == 0 || mentions.size() > 500) continue;
        const std::string name = field.substr(0, equals);
        if (!std::ranges::all_of(name, [](char c) {
              return std::isupper(static_cast<unsigned char>(c)) || std::isdigit(static_cast<unsigned char>(c)) ||
                     c == '_';
            }))
          continue;
        std::string value = field.substr(equals + 1);
        while (!value.empty() && std::string_view("\"'\\;,)").find(value.back()) != std::string_view::npos)
          value.pop_back();
        while (!value.empty() && std::string_view("\"'").find(value.front()) != std::string_view::npos)
          value.erase(0, 1);
        Figure figure;
        size_t length;
        const std::string lower = Lower(value);
        if (lower == "true" || lower == "false") {
          figure = {lower == "true" ? 1.0 : 0.0, 0};
        } else if (!ReadFigure(value, &figure, &length) || length != value.size()) {
          continue;
        }
        mentions[Lower(name)].push_back({figure.value, name + "=" + value, number});
      }
      continue;
    }
    // Tables that have a column of seeds: their steps against the logs.
    if (line.starts_with('|')) {
      std::vector<std::string> cells;
      std::string cell;
      for (const char c : line.substr(1)) {
        if (c == '|') {
          cells.push_back(Trim(cell));
          cell.clear();
        } else if (c != '*' && c != '`' && c != ',') {
          cell += c;
        }
      }
      if (header.empty()) {
        for (const std::string& one : cells) header.push_back(Lower(one));
        continue;
      }
      const auto column = [&](std::string_view name) {
        return static_cast<size_t>(std::ranges::find(header, name) - header.begin());
      };
      const size_t seed_column = column("seed"), steps_column = column("steps");
      int64_t seed;
      if (seed_column >= cells.size() || !ParseInt(cells[seed_column], &seed)) continue;
      const std::vector<const FolderLog*> logs = context.LogsOf(seed);
      Figure figure;
      if (steps_column < cells.size() && ReadFigure(cells[steps_column], &figure) && !logs.empty()) {
        const FolderLog* other = nullptr;
        bool same = false;
        for (const FolderLog* log : logs) {
          if (!log->log.stop_step) continue;
          other = log;
          same |= log->log.stop_step->value == figure.value;
        }
        if (other)
          context.Add(
              "steps", StringPrintf("seed %jd ran %s steps", seed, cells[steps_column].c_str()),
              readme.name + ":" + std::to_string(number), "steps of the log: " + Count(other->log.stop_step->value),
              other->At(other->log.stop_step->line), same ? Verdict::kHolds : Verdict::kContradicted);
      }
    } else {
      header.clear();
    }
  }
  size_t held = 0;
  std::string held_at;
  for (const auto& [name, all] : mentions) {
    if (name == "seed" || name == "rank" || name == "world_size" || name == "local_rank") continue;
    for (const FolderLog* log : context.counted) {
      const LoggedLine* setting = log->log.Setting({name.c_str()});
      if (!setting) continue;
      Figure figure;
      const std::string lower = Lower(setting->text);
      if (lower == "true" || lower == "false") {
        figure = {lower == "true" ? 1.0 : 0.0, 0};
      } else if (!ReadFigure(setting->text, &figure)) {
        continue;
      }
      const bool same = std::ranges::any_of(all, [&](const Mention& mention) {
        return std::fabs(mention.value - figure.value) <= 1e-9 * std::max(1.0, std::fabs(figure.value));
      });
      if (!same) {
        context.Add("command", all[0].text, readme.name + ":" + std::to_string(all[0].line),
                    "the log has " + name + ": " + setting->text, log->At(setting->line), Verdict::kContradicted);
        break;
      }
      if (log == context.counted.front()) {
        ++held;
        if (held_at.empty()) held_at = log->At(setting->line);
      }
    }
  }
  if (held > 0)
    context.Add("command", StringPrintf("%zu settings of the README's commands", held), readme.name,
                "the logs have the same values", held_at, Verdict::kHolds);
}

}  // namespace fairway::audit
