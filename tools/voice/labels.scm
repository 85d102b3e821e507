;; Sentences to HTS full-context labels, by Festival's front end alone.
;; A script loads this file and calls (save_labels NAME TEXT FOLDER) once a sentence.

(voice_cmu_us_slt_arctic_hts)

;; Phrase breaks at punctuation only: the student's input is espeak's phoneme string, which shows
;; punctuation and no other break.
(set! phrase_cart_tree simple_phrase_cart_tree)
(Parameter.set 'Phrase_Method 'cart_tree)

(define (save_labels name text folder)
  "(save_labels NAME TEXT FOLDER)
Write the labels of TEXT to FOLDER/NAME.lab; a sentence that Festival cannot read writes none."
  (unwind-protect
   (begin
    (set! utt (eval (list 'Utterance 'Text text)))
    (Initialize utt)
    (Text utt)
    (Token_POS utt)
    (Token utt)
    (POS utt)
    (Phrasify utt)
    (Word utt)
    (Pauses utt)
    (Intonation utt)
    (PostLex utt)
    (Duration utt)
    (Int_Targets utt)
    (hts_dump_feats utt hts_feats_list (string-append folder "/" name ".lab")))
   (format t "no labels for %s\n" name)))
