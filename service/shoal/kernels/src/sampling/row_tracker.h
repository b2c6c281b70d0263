// Which rows of a batch need a look at their tokens. The others are under grammars that are known to
// learn nothing from them: a plain token of free text changes nothing, and one that leads from a
// known place to another changes what is known there. Called by bindings/tracker_bindings.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace shoal {

class RowTracker {
 public:
  static constexpr std::int32_t kNoLook = -2, kHere = -2, kLook = -1, kNowhere = -1, kUnknown = -1;
  static constexpr std::size_t kMostTold = 256;  // tokens of a row that are kept

  struct Row {
    std::int32_t table = kNoLook;    // whose plain tokens need no look; kLook: none does without
    std::int32_t chars_left = -1;    // plain characters until one needs a look; below 0: never
    std::int32_t place = kNowhere;
    std::int32_t column = kUnknown;  // where its mask is written; kUnknown: nowhere
    bool has_others = false;         // in free text: its table is written too
    bool needs_mask = false;         // of its next token, known beforehand
    std::vector<std::int32_t> told;  // tokens that led from place to place
  };
  // What is known there.
  struct Place {
    std::int32_t table;       // kLook: it is not in free text
    std::int32_t chars_left;  // below 0, or 0: each plain token needs a look, or leads on
    std::int32_t mask;        // kUnknown
    std::int32_t behind_plain = kNowhere;  // where plain tokens lead that have no way of their own
  };
  // The characters of each token, more than 0 for a plain one.
  struct Tables {
    const std::uint8_t* num_chars;  // [tables, ids]
    std::size_t ids;
  };
  // What the sampler reads of each row.
  struct Columns {
    std::int32_t* masks;  // [columns, rows]
    std::int32_t* table;  // [rows] in free text; kLook elsewhere
  };

  std::vector<Row> rows;
  std::vector<Place> places;

  // `to` kNowhere: the token needs a look, also where plain ones lead on.
  void add_way(std::int32_t from, std::int32_t token, std::int32_t to);
  // No row is at one any more.
  void forget_places();
  // The rows that need a look at their token [rows].
  std::vector<std::int32_t> to_look_at(const std::int32_t* tokens, const Tables& tables) const;
  // The same; the others go on.
  std::vector<std::int32_t> advance(const std::int32_t* tokens, const Tables& tables,
                                    const Columns& columns);

 private:
  static std::uint64_t key_of(std::int32_t place, std::int32_t token) {
    return static_cast<std::uint64_t>(place) << 32 | static_cast<std::uint32_t>(token);
  }
  std::int32_t next(const Row& row, std::int32_t token, int chars) const;

  std::unordered_map<std::uint64_t, std::int32_t> ways_;
};

}  // namespace shoal
