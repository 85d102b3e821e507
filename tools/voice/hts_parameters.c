/* HTS labels to the frame parameters that hts_engine would make sound of.
 *
 * usage: hts_parameters VOICE.htsvoice OUT_FOLDER < LIST
 *
 * Each line of LIST is "NAME LABEL_FILE". OUT_FOLDER/NAME.bin, in the machine's byte order, holds
 *   int32 segments, frames, order
 *   int32 duration[segments][STATES]      frames of 5 ms
 *   float parameters[frames][1 + order]   log F0 (UNVOICED where there is none), mel-cepstrum
 * A label file that hts_engine refuses is named on the standard error, and has no file.
 */
#include <HTS_engine.h>
#include <stdio.h>
#include <stdlib.h>

#define ORDER 45 /* mel-cepstral coefficients, c0 included */
#define STATES 5
#define UNVOICED (-1e10f)
enum { CEPSTRUM_STREAM = 0, LOG_F0_STREAM = 1 };

/* The library exports these; its public header leaves them out. */
double HTS_PStreamSet_get_parameter(HTS_PStreamSet *set, size_t stream, size_t frame, size_t index);
HTS_Boolean HTS_PStreamSet_get_msd_flag(HTS_PStreamSet *set, size_t stream, size_t frame);
size_t HTS_PStreamSet_get_total_frame(HTS_PStreamSet *set);

static void write_parameters(HTS_Engine *engine, FILE *out) {
  size_t states = HTS_Engine_get_total_state(engine);
  size_t frames = HTS_PStreamSet_get_total_frame(&engine->pss);
  int header[3] = {(int)(states / STATES), (int)frames, ORDER};
  fwrite(header, sizeof(int), 3, out);

  for (size_t state = 0; state < states; state++) {
    int duration = (int)HTS_Engine_get_state_duration(engine, state);
    fwrite(&duration, sizeof(int), 1, out);
  }

  size_t voiced = 0; /* the log F0 stream holds voiced frames only */
  for (size_t frame = 0; frame < frames; frame++) {
    float row[1 + ORDER];
    row[0] = UNVOICED;
    if (HTS_PStreamSet_get_msd_flag(&engine->pss, LOG_F0_STREAM, frame))
      row[0] = (float)HTS_PStreamSet_get_parameter(&engine->pss, LOG_F0_STREAM, voiced++, 0);
    for (size_t k = 0; k < ORDER; k++)
      row[1 + k] = (float)HTS_PStreamSet_get_parameter(&engine->pss, CEPSTRUM_STREAM, frame, k);
    fwrite(row, sizeof(float), 1 + ORDER, out);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s VOICE.htsvoice OUT_FOLDER < LIST\n", argv[0]);
    return 2;
  }
  HTS_Engine engine;
  HTS_Engine_initialize(&engine);
  if (!HTS_Engine_load(&engine, &argv[1], 1) || HTS_Engine_get_nstate(&engine) != STATES) {
    fprintf(stderr, "%s is not a voice of %d states\n", argv[1], STATES);
    return 1;
  }

  char line[4096], name[256], labels[2048], path[4096];
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%255s %2047s", name, labels) != 2) continue;
    if (HTS_Engine_generate_state_sequence_from_fn(&engine, labels) &&
        HTS_Engine_generate_parameter_sequence(&engine)) {
      snprintf(path, sizeof path, "%s/%s.bin", argv[2], name);
      FILE *out = fopen(path, "wb");
      if (!out) {
        perror(path);
        return 1;
      }
      write_parameters(&engine, out);
      fclose(out);
    } else {
      fprintf(stderr, "no parameters for %s\n", name);
    }
    HTS_Engine_refresh(&engine);
  }
  HTS_Engine_clear(&engine);
  return 0;
}
